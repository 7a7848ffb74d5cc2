//! Fused training steps of whole models against the float64 interpreter, step by step.

mod support;

use ailora_graph::{
    AdaptConfig, Trainable, fuse::cost::Costs, grad::gradient_name, hoist::hoist, ir::Program,
    method::Ailora,
};
use ailora_models::{batch::Inputs, pretrained::Pretrained};
use ailora_runtime::{
    backend::Precision,
    engine::{Engine, PlanId},
    init::initialise,
    optim::{AdamW, AdamWConfig, Group},
    passes::{Fusion, Passes},
    spectrum::Options,
    store::Params,
};
use indexmap::IndexMap;
use support::{File, device, eval, fixtures, labels, relative_difference};

#[test]
fn ten_fused_steps_equal_the_interpreters() {
    let steps = if device::is_float32() { 10 } else { 1 };
    for family in ["bert", "roberta", "deberta_v3", "deberta_v2"] {
        let scene = Scene::new(family);
        let mut engine = device::engine(scene.params.clone(), Fusion::At(Costs::default()));
        let plan = engine.compile(&scene.step).unwrap();
        assert_cheaper(&engine, plan);
        assert_each_weight_is_there_once(&scene, &mut engine, plan);
        scene.follow(&mut engine, plan, steps);
        assert_padding_is_zero(&engine);
    }
}

/// A training step of a family's model with adapters.
struct Scene {
    family: &'static str,
    step: Program,
    params: Params,
    inputs: Inputs,
}

impl Scene {
    fn new(family: &'static str) -> Self {
        let dir = fixtures().join(format!("parity/{family}_cls-0"));
        let base = Pretrained::open(&dir, labels(&dir)).unwrap();
        let model = &base.model;
        let batch = File::open(&dir.join("io.safetensors")).batch(model.head());
        let mut config = AdaptConfig::method(&Ailora, 4);
        config.alpha = Some(6.0);
        let sites = config.resolve(model.sites()).unwrap();
        let mut params = base.weights.clone();
        initialise(&sites, &mut params, 1, &Options::default(), |_| {}).unwrap();
        let program = model.program(batch.shape(), false, true).unwrap();
        let passes = Passes {
            sites: &sites,
            trainable: &Trainable::Adapters,
            precision: Precision::F32,
        };
        Self {
            family,
            step: passes.step(&program).unwrap(),
            params,
            inputs: model.inputs(&batch),
        }
    }

    fn trained(&self) -> Vec<String> {
        let leaves = self.step.trained_parameters();
        leaves.map(|leaf| leaf.name.to_string()).collect()
    }

    fn optimizer(&self, engine: &Engine) -> AdamW {
        let group = Group {
            lr: 1.0,
            parameters: self.trained(),
        };
        AdamW::new(AdamWConfig::default(), vec![group], engine.weights())
    }

    /// Steps of an engine beside those of the interpreter: the same optimiser on parameters that lie by
    /// themselves.
    fn follow(&self, engine: &mut Engine, plan: PlanId, steps: usize) {
        let (family, trained) = (self.family, self.trained());
        let mut fast = self.optimizer(engine);
        let mut slow_engine = device::engine(self.params.clone(), Fusion::Off);
        let mut slow = self.optimizer(&slow_engine);
        for i in 0..steps {
            let current: Params = self
                .params
                .keys()
                .map(|name| (name.clone(), slow_engine.weights().get(name).unwrap()))
                .collect();
            let expected: IndexMap<String, Vec<f64>> = eval(&self.step, &current, &self.inputs)
                .into_iter()
                .collect();
            let outputs = engine
                .run(plan, &self.inputs.values(), Default::default())
                .unwrap();
            let mut found: IndexMap<String, Vec<f32>> = IndexMap::new();
            for (name, expected) in &expected {
                let value = outputs.get(name).unwrap().to_vec();
                let wide: Vec<f64> = value.iter().map(|&x| f64::from(x)).collect();
                let difference = relative_difference(&wide, expected);
                assert!(
                    difference <= device::tolerance(2e-5),
                    "{family}, step {i}: {name} by {difference:e}"
                );
                found.insert(name.clone(), value);
            }
            let of = |name: &String| gradient_name(name);
            let fast_gradients = trained
                .iter()
                .map(|name| (name.clone(), found[&of(name)].clone()))
                .collect();
            let rounded = |name: &String| expected[&of(name)].iter().map(|&x| x as f32).collect();
            let slow_gradients = trained
                .iter()
                .map(|name| (name.clone(), rounded(name)))
                .collect();
            fast.update(engine.weights_mut(), &fast_gradients, 1e-3, 1.0);
            slow.update(slow_engine.weights_mut(), &slow_gradients, 1e-3, 1.0);
        }
        for name in &trained {
            let [a, b] = [&*engine, &slow_engine].map(|engine| engine.weights().get(name).unwrap());
            let [a, b] =
                [a, b].map(|x| x.floats().iter().map(|&x| f64::from(x)).collect::<Vec<_>>());
            let difference = relative_difference(&a, &b);
            assert!(
                difference <= 1e-3 || !device::is_float32(),
                "{family}: {name} ends {difference:e} elsewhere"
            );
        }
    }
}

fn assert_cheaper(engine: &Engine, plan: PlanId) {
    let seconds = |form: usize| -> f64 {
        let reports = engine.reports(plan).iter();
        reports.map(|r| r.seconds[form] * r.count as f64).sum()
    };
    assert!(seconds(1) < seconds(0));
}

/// As a residual a frozen weight is neither whole nor in two packs, which are filled up to whole vectors.
fn assert_each_weight_is_there_once(scene: &Scene, engine: &mut Engine, plan: PlanId) {
    let hoisted = hoist(&scene.step).unwrap().step;
    let read: usize = hoisted
        .frozen_parameters()
        .chain(hoisted.trained_parameters())
        .map(|leaf| leaf.ty.len())
        .sum();
    engine.release_unread();
    let plan_reads = engine.plan(plan).parameter_bytes() / 4;
    assert!(
        read <= plan_reads && plan_reads <= read + read / 15,
        "{read} {plan_reads}"
    );
    // A device has the packs; here are their parts.
    let held = engine.weights().bytes() / 4;
    assert_eq!(
        held,
        if device::is_device() {
            read
        } else {
            plan_reads
        }
    );
}

/// Nothing was written where packs are zero.
fn assert_padding_is_zero(engine: &Engine) {
    let arrays = engine.weights().arrays().iter();
    for (name, pack) in arrays.filter(|(name, _)| name.starts_with("pack:")) {
        let zeros = pack.floats().iter().filter(|x| **x == 0.0).count();
        let all = pack.len();
        assert!(zeros >= all / 100, "{name}: {zeros} of {all}");
    }
}
