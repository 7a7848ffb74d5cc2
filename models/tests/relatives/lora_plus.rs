//! LoRA+'s groups.

use ailora_graph::{
    AdaptConfig,
    adapter::{Layout, Trainable},
    method::{LoraPlus, constructors::random},
};
use ailora_runtime::{
    optim::{AdamW, AdamWConfig, Group},
    store::{Array, Params},
    weights::Weights,
};
use indexmap::IndexMap;

use super::site;

/// Rows 9 and 10: `B` at 16 times the rate of `A`, each in one group, with the decay of its own rate, and
/// vectors without.
#[test]
fn lora_plus_has_a_rate_and_a_decay_for_each_factor() {
    let config = AdaptConfig::method(&LoraPlus, 2);
    let annotated = site("q", [3, 4], Layout::OutIn, random(2));
    let sites = config.resolve(vec![annotated]).unwrap();
    let rates = Trainable::Adapters.rates(&sites, []);
    let of = |name: &str, rate: f64| (format!("q.{name}.weight"), rate);
    assert_eq!(rates, [of("lora_A", 1.0), of("lora_B", 16.0)]);
    assert_eq!(Trainable::Adapters.count(&sites, &[]), 2 * 4 + 3 * 2);

    let ones = |shape: &[usize]| Array::new(shape, vec![1.0; shape.iter().product()]);
    let params: Params = [
        ("q.lora_A.weight".to_owned(), ones(&[2, 4])),
        ("q.lora_B.weight".to_owned(), ones(&[3, 2])),
        ("bias".to_owned(), ones(&[3])),
        ("q.ia3_l".to_owned(), ones(&[3, 1])),
    ]
    .into();
    let mut weights = Weights::new(params);
    let mut rates = rates;
    rates.extend([("bias".to_owned(), 16.0), ("q.ia3_l".to_owned(), 1.0)]);
    let groups = rates.iter().map(|(name, lr)| Group {
        lr: *lr,
        parameters: vec![name.clone()],
    });
    let config = AdamWConfig {
        weight_decay: 0.1,
        ..AdamWConfig::default()
    };
    let mut optimizer = AdamW::new(config, groups.collect(), &weights);
    let gradients: IndexMap<String, Vec<f32>> = rates
        .iter()
        .map(|(name, _)| (name.clone(), vec![0.0; weights.len(name).unwrap()]))
        .collect();
    optimizer.update(&mut weights, &gradients, 1e-2, 1.0);
    for (name, expected) in [
        ("q.lora_A.weight", 1.0 - 1e-3),
        ("q.lora_B.weight", 1.0 - 1.6e-2),
        ("bias", 1.0),
        ("q.ia3_l", 1.0),
    ] {
        let found = weights.get(name).unwrap();
        assert!(
            found.floats().iter().all(|x| (x - expected).abs() < 1e-7),
            "{name}"
        );
    }
}
