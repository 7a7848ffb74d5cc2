//! What holds for every method of the list, whatever it does: it starts at the original model, leaves
//! alone what does not train, is the same fused and unfused, goes on from a checkpoint bit for bit, and is
//! the same model saved and loaded, and merged.

mod support;

use std::path::Path;

use ailora_graph::{
    AdaptConfig,
    adapt::{Mode, adapt},
    adapter::{AdapterError, AdapterOption, Site, Strategy, Trainable},
    fuse::cost::Costs,
    ir::Draw,
    method::{Lora, METHODS, Method},
};
use ailora_models::{
    batch::Batch,
    head::Head,
    model::Model,
    peft::{Adapter, PeftError},
    pretrained::Pretrained,
};
use ailora_runtime::{
    engine::PlanId,
    init::initialise,
    optim::{AdamW, AdamWConfig, Group, Schedule, ScheduleKind},
    passes::{Fusion, Passes},
    spectrum::Options,
    store::{Array, Params},
    train::{MicroBatch, Trainer},
};
use support::{File, device, fixtures, largest_difference, run};

const MODELS: [(&str, Head); 5] = [
    ("bert_cls-0", Head::classification(2)),
    ("deberta_v3_cls-0", Head::classification(2)),
    ("llama_gqa_tied-0", Head::CausalLm),
    ("bart_cls-0", Head::classification(3)),
    ("bart-0", Head::Seq2SeqLm { smoothing: 0.0 }),
];

/// Methods whose start is not the original model.
const MOVED: [&str; 2] = ["houlsby", "pfeiffer"];

const STEPS: usize = 6;

/// A model that a method adapts.
struct Adapted {
    name: String,
    dir: std::path::PathBuf,
    head: Head,
    model: Model,
    batch: Batch,
    base: Params,
    sites: Vec<Site>,
    trainable: Trainable,
    /// With the adapters' starts.
    params: Params,
}

impl Adapted {
    /// Nothing where the model has none of what the method trains.
    fn new(config: AdaptConfig, (base, head): (&str, Head), dropout: f64) -> Option<Self> {
        let method = config.method.map_or("ailora", Method::name);
        let name = format!("{method} on {base}");
        let dir = fixtures().join("parity").join(base);
        let Pretrained { model, weights, .. } = Pretrained::open(&dir, head).unwrap();
        let mut config = config;
        let takes_dropout = |site: &Site| match site.spec.strategy {
            Strategy::Adapted(adapter) => adapter.options().contains(&AdapterOption::Dropout),
            Strategy::Frozen | Strategy::Full => false,
        };
        let sites = config.resolve(model.sites()).unwrap();
        if sites.iter().any(takes_dropout) {
            config.dropout = Some(dropout);
        }
        let sites = config.resolve(model.sites()).unwrap();
        let trainable = match config.resolve_trainable(&sites, model.parameters()) {
            Ok(trainable) => trainable,
            Err(AdapterError::TrainsNone { .. }) => return None,
            Err(error) => panic!("{name}: {error}"),
        };
        let mut params = weights.clone();
        initialise(&sites, &mut params, 5, &Options::default(), |_| {}).unwrap();
        Some(Self {
            batch: File::open(&dir.join("io.safetensors")).batch(head),
            name,
            dir,
            head,
            model,
            base: weights,
            sites,
            trainable,
            params,
        })
    }

    fn logits(&self, params: &Params, sites: &[Site]) -> Vec<f64> {
        let model = &self.model;
        let program = model.program(self.batch.shape(), false, false).unwrap();
        let program = adapt(&program, sites, &Trainable::Adapters, Mode::Infer).unwrap();
        let mut outputs = run(&program, params, &model.inputs(&self.batch));
        outputs.retain(|(name, _)| name == "logits");
        outputs.remove(0).1
    }

    fn same(&self, what: &str, found: &[f64], expected: &[f64], tolerance: f64) {
        let difference = largest_difference(found, expected);
        let tolerance = device::tolerance(tolerance);
        assert!(
            difference <= tolerance,
            "{}: {what}: {difference:e}",
            self.name
        );
    }

    fn trainer(&self, fusion: Fusion) -> (Trainer, PlanId) {
        let passes = Passes {
            sites: &self.sites,
            trainable: &self.trainable,
            precision: device::precision(),
        };
        let program = self.model.program(self.batch.shape(), false, true).unwrap();
        let step = passes.step(&program).unwrap();
        let mut engine = device::engine(self.params.clone(), fusion);
        let plan = engine.compile(&step).unwrap();
        let names = self.model.parameters().iter().map(|p| p.name.as_str());
        let rates = self.trainable.rates(&self.sites, names);
        let groups = rates.into_iter().map(|(name, lr)| Group {
            lr,
            parameters: vec![name],
        });
        let config = AdamWConfig {
            weight_decay: 0.1,
            ..AdamWConfig::default()
        };
        let optimizer = AdamW::new(config, groups.collect(), engine.weights());
        let schedule = Schedule {
            kind: ScheduleKind::Linear,
            warmup: 1,
            total: 2 * STEPS as u64,
        };
        (
            Trainer::new(engine, optimizer, 1e-2, schedule, Some(1.0), 3),
            plan,
        )
    }

    fn steps(&self, trainer: &mut Trainer, plan: PlanId, count: usize) {
        let inputs = self.model.inputs(&self.batch);
        for _ in 0..count {
            let micro = MicroBatch {
                plan,
                inputs: inputs.values(),
                rows: self.batch.rows,
                targets: 1,
            };
            trainer.step(&[micro]).unwrap();
        }
    }

    /// What is trained after all steps, unbroken; the same with a checkpoint between, and nearly the
    /// same unfused.
    fn trained(&self) -> Params {
        let (mut unbroken, plan) = self.trainer(Fusion::At(Costs::default()));
        self.steps(&mut unbroken, plan, STEPS);
        let trained = unbroken.trained().unwrap();
        assert!(!trained.is_empty(), "{}", self.name);
        for (name, array) in &self.base {
            if !trained.contains_key(name) {
                let left = unbroken.engine().unwrap().weights().get(name);
                let same = left.is_some_and(|left| left.same_values(array));
                assert!(same, "{}: {name} is not as it was", self.name);
            }
        }

        let (mut first, plan) = self.trainer(Fusion::At(Costs::default()));
        self.steps(&mut first, plan, STEPS / 2);
        let checkpoint = first.checkpoint().unwrap();
        drop(first);
        let (mut second, plan) = self.trainer(Fusion::At(Costs::default()));
        second.restore(&checkpoint).unwrap();
        self.steps(&mut second, plan, STEPS - STEPS / 2);
        assert_eq!(second.trained().unwrap(), trained, "{}: resumed", self.name);

        let (mut unfused, plan) = self.trainer(Fusion::Off);
        self.steps(&mut unfused, plan, STEPS);
        let unfused = unfused.trained().unwrap();
        for (name, array) in &trained {
            let wide = |array: &Array| {
                array
                    .floats()
                    .iter()
                    .map(|&x| f64::from(x))
                    .collect::<Vec<_>>()
            };
            // Where a gradient is next to nothing, Adam makes as large a step of its rounding.
            let what = format!("{name} unfused");
            self.same(&what, &wide(&unfused[name]), &wide(array), 2e-3);
        }
        trained
    }

    /// Trained, it computes the same saved and loaded, and merged, if it can be.
    fn lives_on(&self, trained: Params, folder: &Path) {
        let mut params = self.params.clone();
        params.extend(trained);
        let expected = self.logits(&params, &self.sites);
        let moved = largest_difference(&expected, &self.logits(&self.base, &[]));
        assert!(
            moved > 1e-4,
            "{}: trained, it moved by {moved:e}",
            self.name
        );
        let adapter =
            Adapter::from_trained(&self.model, &self.sites, &params, &self.trainable, &[]).unwrap();
        adapter.save(folder, "base", self.head).unwrap();
        let mut pretrained = Pretrained::open(&self.dir, self.head).unwrap();
        let loaded = Adapter::load(folder, &mut pretrained)
            .unwrap_or_else(|error| panic!("{}: {error}", self.name));
        let again = tempfile::tempdir().unwrap();
        let mut exported = loaded.clone();
        exported.close(&self.model, &self.base).unwrap();
        exported.save(again.path(), "base", self.head).unwrap();
        let read = |dir: &Path| {
            let config = std::fs::read(dir.join("adapter_config.json")).unwrap();
            let mut config: serde_json::Value = serde_json::from_slice(&config).unwrap();
            for field in ["target_modules", "feedforward_modules", "modules_to_save"] {
                if let Some(modules) = config[field].as_array_mut() {
                    modules.sort_by_key(|module| module.to_string());
                }
            }
            let tensors = std::fs::read(dir.join("adapter_model.safetensors")).unwrap();
            (config, tensors)
        };
        let (found, written) = (read(again.path()), read(folder));
        assert_eq!(found.0, written.0, "{}: exported", self.name);
        assert!(found.1 == written.1, "{}: exported", self.name);
        let sites = loaded.apply_to(self.model.sites());
        let mut beside = self.base.clone();
        beside.extend(loaded.tensors.clone());
        self.same("loaded", &self.logits(&beside, &sites), &expected, 1e-5);
        let mut merged = self.base.clone();
        match loaded.merge_into(&mut merged) {
            Ok(()) => self.same("merged", &self.logits(&merged, &[]), &expected, 1e-5),
            Err(PeftError::NotMergeable { .. }) => {
                let method = self.name.split(' ').next().unwrap();
                assert!(MOVED.contains(&method), "{} cannot be merged", self.name);
            }
            Err(error) => panic!("{}: {error}", self.name),
        }
    }
}

/// Moves what trains away from where it starts, by less than the start of any other.
fn perturbed(sites: &[Site], params: &mut Params) {
    for parameter in sites.iter().flat_map(|site| site.parameters(sites)) {
        if !parameter.trains {
            continue;
        }
        let key = Draw::default().key(&parameter.name);
        let array = params.get_mut(&parameter.name).unwrap();
        for (i, x) in array.floats_mut().iter_mut().enumerate() {
            *x += 0.1 * key.normal(i as u64) as f32;
        }
    }
}

#[test]
fn every_method_keeps_what_all_promise() {
    for &method in METHODS {
        let mut models = 0;
        for model in MODELS {
            let config = AdaptConfig::method(method, 3);
            let Some(mut adapted) = Adapted::new(config, model, 0.1) else {
                continue;
            };
            models += 1;
            if !MOVED.contains(&method.name()) {
                let start = adapted.logits(&adapted.params, &adapted.sites);
                adapted.same("start", &start, &adapted.logits(&adapted.base, &[]), 1e-5);
            }
            perturbed(&adapted.sites, &mut adapted.params);
            let trained = adapted.trained();
            let folder = tempfile::tempdir().unwrap();
            adapted.lives_on(trained, folder.path());
        }
        assert!(
            models >= 2,
            "{} was tried on {models} models",
            method.name()
        );
    }
}

/// All linear layers are adapted but the head, which trains, is saved once and whole, and is there when the
/// adapter is loaded or merged; of a language model the output that is tied to the table of words is none.
#[test]
fn all_linear_leaves_heads_alone() {
    for (model, projections) in [
        (MODELS[1], 2 * 6),
        (MODELS[2], 2 * 7),
        (MODELS[3], 2 * 6 + 2 * 10),
    ] {
        let mut config = AdaptConfig::method(&Lora, 2);
        config.targets = vec!["all-linear".into()];
        let mut adapted = Adapted::new(config, model, 0.0).unwrap();
        let name = adapted.name.clone();
        let is_head = |path: &str| {
            ["classifier", "classification_head", "lm_head"]
                .iter()
                .any(|head| path.starts_with(head))
        };
        let sites = adapted.sites.iter().filter(|site| site.is_adapted());
        let paths: Vec<&str> = sites.map(|site| &*site.path).collect();
        assert!(!paths.iter().any(|path| is_head(path)), "{name}: {paths:?}");
        assert_eq!(paths.len(), projections, "{name}: {paths:?}");
        perturbed(&adapted.sites, &mut adapted.params);
        let trained = adapted.trained();
        let heads = trained.keys().filter(|name| is_head(name)).count();
        assert_eq!(heads > 0, model.1 != Head::CausalLm, "{name}");
        let folder = tempfile::tempdir().unwrap();
        adapted.lives_on(trained, folder.path());
        let file = File::open(&folder.path().join("adapter_model.safetensors"));
        let saved = file.names();
        let saved = saved
            .iter()
            .filter(|name| is_head(name.strip_prefix("base_model.model.").unwrap()));
        assert_eq!(saved.count(), heads, "{name}");
    }
}
