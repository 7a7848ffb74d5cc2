//! IA3's two sides.

use ailora_graph::{
    AdaptConfig,
    adapt::{Mode, adapt},
    adapter::{Layout, Trainable},
    method::{
        Ia3,
        constructors::{ia3, ia3_input},
    },
};
use ailora_models::peft::Adapter;
use ailora_runtime::store::{Array, Params};

use super::{program, saved::bert, site, values};

/// The bias is scaled with the output, and not with the input; a zero loses nothing of the base.
#[test]
fn ia3_scales_the_bias_where_it_scales_the_output() {
    for (spec, y, bias, shape) in [
        (ia3(), 50.0, 30.0, [1, 1]),
        (ia3_input(), 23.0, 3.0, [1, 1]),
    ] {
        let sites = [site("p", [1, 1], Layout::OutIn, spec)];
        let one = |shape: &[usize], x: f32| Array::new(shape, vec![x]);
        let mut params: Params = [
            ("p.weight".to_owned(), one(&[1, 1], 2.0)),
            ("p.bias".to_owned(), one(&[1], 3.0)),
            ("p.ia3_l".to_owned(), one(&shape, 10.0)),
            ("x.p".to_owned(), one(&[1, 1], 1.0)),
        ]
        .into();
        let with = adapt(
            &program(&sites, 1),
            &sites,
            &Trainable::Adapters,
            Mode::Infer,
        )
        .unwrap();
        assert_eq!(values(&with, &params)["y.p"], [y]);
        let mut adapter = Adapter::default();
        adapter.sites.insert("p".into(), sites[0].clone());
        for (l, weight, bias) in [
            (10.0, 20.0, bias),
            (0.0, 0.0, if bias == 3.0 { 3.0 } else { 0.0 }),
        ] {
            adapter.tensors.insert("p.ia3_l".into(), one(&shape, l));
            let mut merged = params.clone();
            adapter.merge_into(&mut merged).unwrap();
            assert_eq!(*merged["p.weight"].floats(), [weight]);
            assert_eq!(*merged["p.bias"].floats(), [bias]);
        }
        // What was merged is a copy: without the adapter, the base is what it was.
        params.insert("p.ia3_l".into(), one(&shape, 0.0));
        assert_eq!(values(&program(&sites, 1), &params)["y.p"], [5.0]);
        assert_eq!(*params["p.weight"].floats(), [2.0]);
    }
}

/// Where IA3 goes: keys, values, and what feed-forward blocks read last; `ia3_l` as PEFT has it.
#[test]
fn ia3_goes_to_keys_values_and_feed_forward_blocks() {
    let base = bert();
    let config = AdaptConfig::method(&Ia3, 1);
    let sites = config.resolve(base.model.sites()).unwrap();
    let found: Vec<(String, Vec<usize>)> = (sites.iter().filter(|site| site.is_adapted()))
        .flat_map(|site| site.parameters(&sites))
        .map(|parameter| (parameter.name, parameter.shape))
        .collect();
    let layers = found.len() / 3;
    assert_eq!((found.len(), layers > 0), (3 * layers, true));
    for (name, shape) in found {
        let output = name.ends_with("key.ia3_l") || name.ends_with("value.ia3_l");
        assert!(output || name.ends_with(".output.dense.ia3_l"), "{name}");
        assert!(!name.contains("attention.output"), "{name}");
        assert_eq!(shape[usize::from(output)], 1, "{name}");
    }
}
