//! Every method that PEFT has too, against it (`tests/fixtures/methods.py`): its folders are read as what
//! trains, give its logits and gradients, go where AdamW goes with it, and are written back as they were.

mod support;

use std::{collections::HashMap, fs, path::Path};

use ailora_graph::{
    AdapterSpec,
    adapt::{Mode, adapt},
    adapter::{Site, Trainable},
    fuse::cost::Costs,
    method::constructors::{mica, olora, random_frozen},
};
use ailora_models::{
    batch::Batch, head::Head, model::Model, peft::Adapter, pretrained::Pretrained,
};
use ailora_runtime::{
    init::initialise,
    optim::{AdamW, AdamWConfig, Group, Schedule, ScheduleKind},
    passes::{Fusion, Passes},
    spectrum::Options,
    store::{self, Array, Params},
    train::{MicroBatch, Trainer},
};
use support::{File, device, fixtures, largest_difference, relative_difference, run};

const STEPS: usize = 20;
const RATE: f64 = 1e-3;
const LORA_PLUS: f64 = 16.0;

/// The model in `parity/` that a case is of, and its head.
fn base(case: &str) -> (&'static str, Head) {
    match case.split_once('-').unwrap().0 {
        "bert" => ("bert_cls-0", Head::classification(2)),
        "roberta" => ("roberta_cls-0", Head::classification(3)),
        "deberta" => ("deberta_v3_cls-0", Head::classification(2)),
        "llama" => ("llama_gqa_tied-0", Head::CausalLm),
        "qwen2" => ("qwen2-0", Head::CausalLm),
        "bart" => ("bart_cls-0", Head::classification(3)),
        "bart_lm" => ("bart-0", Head::Seq2SeqLm { smoothing: 0.0 }),
        other => panic!("{other} is no family"),
    }
}

/// A case: PEFT's adapter on its base.
struct Case {
    name: String,
    steps: File,
    model: Model,
    batch: Batch,
    adapter: Adapter,
    sites: Vec<Site>,
    base: Params,
}

impl Case {
    fn open(folder: &Path) -> Self {
        let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
        let (base, head) = base(&name);
        let dir = fixtures().join("parity").join(base);
        let mut pretrained = Pretrained::open(&dir, head).unwrap();
        let adapter = Adapter::load(folder, &mut pretrained)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let model = pretrained.model;
        let mut sites = adapter.apply_to(model.sites());
        if name.ends_with("lora_plus") {
            sites.iter_mut().for_each(|site| site.spec.b_lr = LORA_PLUS);
        }
        Self {
            steps: File::open(&folder.join("steps.safetensors")),
            batch: File::open(&dir.join("io.safetensors")).batch(head),
            name,
            model,
            adapter,
            sites,
            base: pretrained.weights,
        }
    }

    fn logits(&self, params: &Params, sites: &[Site]) -> Vec<f64> {
        let model = &self.model;
        let program = model.program(self.batch.shape(), false, false).unwrap();
        let program = adapt(&program, sites, &Trainable::Adapters, Mode::Infer).unwrap();
        let mut outputs = run(&program, params, &model.inputs(&self.batch));
        outputs.retain(|(name, _)| name == "logits");
        outputs.remove(0).1
    }

    fn with(&self, tensors: &Params) -> Params {
        let mut params = self.base.clone();
        params.extend(tensors.clone());
        params
    }

    /// Where they differ from PEFT's.
    fn check(&self, what: &str, found: &[f64], expected: &str, tolerance: f64) {
        let difference = largest_difference(found, &self.steps.floats(expected));
        let tolerance = device::tolerance(tolerance);
        assert!(
            difference <= tolerance,
            "{}: {what}: {difference:e}",
            self.name
        );
    }

    /// As read, beside the weights and in them.
    fn computes_what_pefts_does(&self) {
        let beside = self.with(&self.adapter.tensors);
        self.check("logits", &self.logits(&beside, &self.sites), "logits", 1e-5);
        let mut merged = self.base.clone();
        self.adapter.merge_into(&mut merged).unwrap();
        self.check("merged", &self.logits(&merged, &[]), "logits", 1e-5);
    }

    /// What trains as PEFT trains it, which its folder does not say of all: the projections and the
    /// parameters.
    fn training(&self) -> (Vec<Site>, Params) {
        let method = self.name.split_once('-').unwrap().1;
        let adapter: fn(usize) -> AdapterSpec = match method {
            "olora" => olora,
            "mica" => mica,
            "lora_fa" => random_frozen,
            _ => return (self.sites.clone(), self.with(&self.adapter.tensors)),
        };
        let mut sites = self.sites.clone();
        for site in sites.iter_mut().filter(|site| site.is_adapted()) {
            site.spec.strategy = adapter(1).strategy;
        }
        if method != "olora" {
            let mut params = self.with(&self.adapter.tensors);
            for site in sites.iter().filter(|site| site.is_adapted()) {
                let rank = site.spec.rank().unwrap();
                let name = format!("inverse.{PREFIX}{}", site.lora_b());
                if method == "lora_fa" {
                    let inverse = self.steps.floats(&name).into_iter().map(|x| x as f32);
                    let inverse = Array::new(vec![rank, rank], inverse.collect());
                    params.insert(format!("{}.lora_A.inverse_gram", site.path), inverse);
                }
            }
            return (sites, params);
        }
        // The folder has what trains; it was loaded as the adapter of twice the rank.
        for site in sites.iter_mut().filter(|site| site.is_adapted()) {
            let scale = site.spec.scale().unwrap();
            let rank = site.spec.rank().unwrap() / 2;
            site.spec = olora(rank).with_alpha(scale * rank as f64);
        }
        let mut params = self.base.clone();
        initialise(&sites, &mut params, 0, &Options::default(), |_| {}).unwrap();
        let file = fixtures()
            .join("methods")
            .join(&self.name)
            .join("adapter_model.safetensors");
        for (name, array) in store::load(&file).unwrap().0 {
            params.insert(own_name(&name), array);
        }
        (sites, params)
    }

    fn trains_as_pefts_does(&self, fusion: Fusion) {
        let model = &self.model;
        let (sites, params) = self.training();
        let passes = Passes {
            sites: &sites,
            trainable: &Trainable::Adapters,
            precision: device::precision(),
        };
        let program = model.program(self.batch.shape(), false, true).unwrap();
        let step = passes.step(&program).unwrap();
        let gradients: HashMap<String, Vec<f64>> = run(&step, &params, &model.inputs(&self.batch))
            .into_iter()
            .collect();
        let wanted = self.steps.names();
        let wanted = wanted.iter().filter_map(|name| name.strip_prefix("grad."));
        let mut wanted: Vec<&str> = wanted.collect();
        wanted.sort_unstable();
        let names = trained(&sites);
        assert_eq!(names, wanted, "{}", self.name);
        for name in &wanted {
            let own = own_name(name);
            let found = &gradients[&format!("grad.{own}")];
            let expected = self.steps.floats(&format!("grad.{name}"));
            let difference = relative_difference(found, &expected);
            assert!(
                difference <= device::tolerance(1e-5),
                "{}: gradient of {own}: {difference:e}",
                self.name
            );
        }

        let mut engine = device::engine(params.clone(), fusion);
        let plan = engine.compile(&step).unwrap();
        let rates = Trainable::Adapters.rates(&sites, []);
        let groups = rates.into_iter().map(|(name, lr)| Group {
            lr,
            parameters: vec![name],
        });
        let optimizer = AdamW::new(AdamWConfig::default(), groups.collect(), engine.weights());
        let schedule = Schedule {
            kind: ScheduleKind::Constant,
            warmup: 0,
            total: STEPS as u64,
        };
        let mut trainer = Trainer::new(engine, optimizer, RATE, schedule, None, 0);
        let inputs = model.inputs(&self.batch);
        for _ in 0..STEPS {
            let micro = MicroBatch {
                plan,
                inputs: inputs.values(),
                rows: self.batch.rows,
                targets: 1,
            };
            trainer.step(&[micro]).unwrap();
        }
        let trained = trainer.trained().unwrap();
        // Adam makes as large a step of a gradient's rounding.
        if !device::is_float32() {
            return;
        }
        for name in &wanted {
            let found = &trained[&own_name(name)];
            let found: Vec<f64> = found.floats().iter().map(|&x| f64::from(x)).collect();
            self.check(name, &found, &format!("final.{name}"), 1e-4);
        }
        let mut params = params;
        params.extend(trained);
        let found = self.logits(&params, &sites);
        self.check("logits at the end", &found, "final_logits", 1e-4);
    }

    /// The folder that is written is the one that was read.
    fn is_written_back(&self, folder: &Path) {
        let copy = tempfile::tempdir().unwrap();
        let (base, head) = base(&self.name);
        self.adapter.save(copy.path(), base, head).unwrap();
        let tensors = |folder: &Path| -> HashMap<String, Array> {
            let file = folder.join("adapter_model.safetensors");
            store::load(&file).unwrap().0.into_iter().collect()
        };
        let (found, expected) = (tensors(copy.path()), tensors(folder));
        for (name, array) in &expected {
            let found = found.get(name);
            let same = found
                .is_some_and(|found| found.shape() == array.shape() && found.same_values(array));
            assert!(same, "{}: {name} is written otherwise", self.name);
        }
        assert_eq!(found.len(), expected.len(), "{}", self.name);
        let config = |folder: &Path| -> serde_json::Value {
            let bytes = fs::read(folder.join("adapter_config.json")).unwrap();
            serde_json::from_slice(&bytes).unwrap()
        };
        let (found, expected) = (config(copy.path()), config(folder));
        assert_eq!(found["peft_type"], expected["peft_type"], "{}", self.name);
        assert_eq!(found["use_dora"], expected["use_dora"], "{}", self.name);
    }
}

/// What trains, under PEFT's names.
fn trained(sites: &[Site]) -> Vec<String> {
    let rates = Trainable::Adapters.rates(sites, []);
    let names = rates.into_iter().map(|(name, _)| format!("{PREFIX}{name}"));
    let mut names: Vec<String> = names.collect();
    names.sort_unstable();
    names
}

const PREFIX: &str = "base_model.model.";

fn own_name(name: &str) -> String {
    name.strip_prefix(PREFIX).unwrap_or(name).to_owned()
}

/// The cases of these methods, in every family that has one.
fn check(methods: &[&str]) {
    let mut cases = 0;
    for entry in fs::read_dir(fixtures().join("methods")).unwrap() {
        let folder = entry.unwrap().path();
        let name = folder.file_name().unwrap().to_str().unwrap();
        if !methods.contains(&name.split_once('-').unwrap().1) {
            continue;
        }
        cases += 1;
        let case = Case::open(&folder);
        case.computes_what_pefts_does();
        for fusion in [Fusion::Off, Fusion::At(Costs::default())] {
            case.trains_as_pefts_does(fusion);
        }
        // What PEFT takes from the base again is written with it: as plain LoRA of twice the rank.
        if !case.name.ends_with("olora") {
            case.is_written_back(&folder);
        }
    }
    assert!(cases >= 7, "{cases} cases of {methods:?}");
}

#[test]
fn lora() {
    check(&["lora", "rslora"]);
}

#[test]
fn olora_starts() {
    check(&["olora"]);
}

#[test]
fn mica_factors() {
    check(&["mica"]);
}

#[test]
fn lora_fa() {
    check(&["lora_fa"]);
}

#[test]
fn lora_plus() {
    check(&["lora_plus"]);
}

#[test]
fn dora() {
    check(&["dora", "dora_patterns"]);
}

#[test]
fn ia3() {
    check(&["ia3"]);
}

#[test]
fn vera() {
    check(&["vera", "vera_drawn"]);
}
