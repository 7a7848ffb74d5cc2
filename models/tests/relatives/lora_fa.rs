//! LoRA-FA's gradients, through the trainer.

use ailora_graph::{
    adapt::Mode,
    adapter::{Layout, Site, Trainable},
    fuse::cost::Costs,
    grad,
    method::constructors::random_frozen,
};
use ailora_runtime::{
    engine::PlanId,
    optim::{AdamW, AdamWConfig, Group, Schedule, ScheduleKind},
    passes::{Fusion, Passes},
    run::Value,
    store::{Array, Params},
    train::{MicroBatch, Trainer},
};

use super::{adapted, normal, program, site, started, support::device, values};

/// A trainer of these sites on a program, at a constant rate.
fn trainer(sites: &[Site], params: &Params, fusion: Fusion) -> (Trainer, PlanId) {
    let trainable = &Trainable::Adapters;
    let precision = device::precision();
    let passes = Passes {
        sites,
        trainable,
        precision,
    };
    let step = passes.step(&program(sites, 4)).unwrap();
    let mut engine = device::engine(params.clone(), fusion);
    let plan = engine.compile(&step).unwrap();
    let groups = trainable
        .rates(sites, [])
        .into_iter()
        .map(|(name, lr)| Group {
            lr,
            parameters: vec![name],
        });
    let optimizer = AdamW::new(AdamWConfig::default(), groups.collect(), engine.weights());
    let schedule = Schedule {
        kind: ScheduleKind::Constant,
        warmup: 0,
        total: 20,
    };
    (
        Trainer::new(engine, optimizer, 1e-2, schedule, None, 0),
        plan,
    )
}

fn train(trainer: &mut Trainer, plan: PlanId, sites: &[Site], steps: usize) {
    let inputs: Vec<(String, Array)> = sites
        .iter()
        .map(|site| format!("x.{}", site.path))
        .zip(sites)
        .map(|(name, site)| (name.clone(), normal(&name, &[4, site.in_features])))
        .collect();
    for _ in 0..steps {
        let values = inputs
            .iter()
            .map(|(name, array)| (name.as_str(), Value::F32(array.as_f32().unwrap())));
        let micro = MicroBatch {
            plan,
            inputs: values.collect(),
            rows: 4,
            targets: 1,
        };
        trainer.step(&[micro]).unwrap();
    }
}

fn two_sites() -> [Site; 2] {
    [
        ([6, 9], random_frozen(4).with_alpha(6.0)),
        ([10, 40], random_frozen(8).with_alpha(2.0)),
    ]
    .map(|(shape, spec)| site(&format!("{}", shape[0]), shape, Layout::OutIn, spec))
}

/// Each layer's first moment is `(1 - beta1) dB (A A^T + 1e-8 I)^-1 / s^2`, with its own scale.
#[test]
fn gradients_are_projected_by_each_scale() {
    let sites = two_sites();
    let start = started(&sites, 2);
    let plain = grad::step(&adapted(&sites, Mode::Train), "loss").unwrap();
    let gradients = values(&plain, &start);
    let (mut trainer, plan) = trainer(&sites, &start, Fusion::Elementwise);
    train(&mut trainer, plan, &sites, 1);
    let moments = trainer.checkpoint().unwrap().tensors;
    for (site, scale) in sites.iter().zip([1.5, 0.25]) {
        let rank = site.spec.rank().unwrap();
        let a = start[&site.lora_a()].floats();
        let rows: Vec<&[f32]> = a.chunks(site.in_features).collect();
        let gram = |i: usize, j: usize| {
            let pairs = rows[i].iter().zip(rows[j]);
            let sum: f64 = pairs.map(|(x, y)| f64::from(*x) * f64::from(*y)).sum();
            sum + if i == j { 1e-8 } else { 0.0 }
        };
        let first = &moments[&format!("adam.first.{}", site.lora_b())];
        let expected = &gradients[&format!("grad.{}", site.lora_b())];
        let largest = expected.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
        // What the moment is of, times A A^T + 1e-8 I, is the gradient.
        for (row, expected) in first.floats().chunks(rank).zip(expected.chunks(rank)) {
            for (j, expected) in expected.iter().enumerate() {
                let product: f64 = (0..rank).map(|i| f64::from(row[i]) * gram(i, j)).sum();
                let found = product * scale * scale / 0.1;
                let near = (found - expected).abs() < 1e-4 * largest;
                assert!(near, "{found} is not {expected}");
            }
        }
    }
}

/// A run that is stopped and goes on ends where one that is not does, fused or not, and `A` stays.
#[test]
fn runs_go_on_and_the_frozen_factor_stays() {
    let sites = two_sites();
    let start = started(&sites, 2);
    let mut ends: Vec<Params> = Vec::new();
    for fusion in [Fusion::Elementwise, Fusion::At(Costs::default())] {
        let (mut first, plan) = trainer(&sites, &start, fusion);
        train(&mut first, plan, &sites, 5);
        let checkpoint = first.checkpoint().unwrap();
        let (mut second, plan) = trainer(&sites, &start, fusion);
        second.restore(&checkpoint).unwrap();
        train(&mut second, plan, &sites, 5);
        train(&mut first, plan, &sites, 5);
        let (resumed, unbroken) = (second.trained().unwrap(), first.trained().unwrap());
        assert_eq!(unbroken.len(), 2, "B alone trains");
        for (name, array) in &unbroken {
            assert!(resumed[name].same_values(array), "{name}");
        }
        let weights = first.engine().unwrap().weights();
        for site in &sites {
            let a = weights.get(&site.lora_a()).unwrap();
            assert!(a.same_values(&start[&site.lora_a()]), "A stays");
        }
        ends.push(unbroken);
    }
    for (name, array) in &ends[0] {
        let (a, b) = (array.floats(), ends[1][name].floats());
        assert!(
            a.iter().zip(b.iter()).all(|(a, b)| (a - b).abs() < 1e-5),
            "{name}"
        );
    }
}
