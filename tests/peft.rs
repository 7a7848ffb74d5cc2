//! Against PEFT: the same adapter, batches and rates give the same losses, and what this crate
//! writes is the LoRA that PEFT reads.

mod device;

use std::path::PathBuf;

use ailora::{
    AdapterSpec, Strategy, Trainable,
    adapt::{Mode, adapt},
    adapter::Site,
    fuse::cost::Costs,
    grad::gradients,
    models::{
        batch::{Batch, Shape, Targets},
        head::Head,
        model::Model,
        peft::Adapter,
        pretrained::Pretrained,
    },
    runtime::{
        engine::PlanId,
        optim::{AdamW, AdamWConfig, Group, Schedule, ScheduleKind},
        passes::Fusion,
        train::{MicroBatch, Trainer},
    },
};
use safetensors::SafeTensors;

fn fixtures() -> PathBuf {
    device::package().join("tests/fixtures")
}

/// A little-endian tensor's elements.
fn elements<const N: usize, T>(file: &SafeTensors, name: &str, f: fn([u8; N]) -> T) -> Vec<T> {
    let bytes = file.tensor(name).unwrap().data().to_vec();
    bytes
        .as_chunks::<N>()
        .0
        .iter()
        .map(|&chunk| f(chunk))
        .collect()
}

fn ids(file: &SafeTensors, name: &str) -> Vec<i32> {
    elements(file, name, |bytes| i64::from_le_bytes(bytes) as i32)
}

fn floats(file: &SafeTensors, name: &str) -> Vec<f32> {
    elements(file, name, f32::from_le_bytes)
}

fn close(found: &[f32], expected: &[f32], tolerance: f32) -> bool {
    found.len() == expected.len()
        && found
            .iter()
            .zip(expected)
            .all(|(a, b)| (a - b).abs() <= tolerance)
}

/// The sites of an adapter, with the head that is trained beside it.
fn trained_sites(adapter: &Adapter, model: &Model) -> Vec<Site> {
    let declared = model.sites();
    let mut sites = adapter.apply_to(declared.clone());
    for (site, declared) in sites.iter_mut().zip(declared) {
        if declared.spec.strategy == Strategy::Full {
            site.spec = AdapterSpec::full();
        }
    }
    sites
}

/// Steps that PEFT made.
struct Steps<'a> {
    family: &'static str,
    file: SafeTensors<'a>,
    settings: serde_json::Value,
}

impl<'a> Steps<'a> {
    fn new(family: &'static str, bytes: &'a [u8]) -> Self {
        let settings = fixtures().join("peft").join(family).join("steps.json");
        Self {
            family,
            file: SafeTensors::deserialize(bytes).unwrap(),
            settings: serde_json::from_slice(&std::fs::read(settings).unwrap()).unwrap(),
        }
    }

    fn number(&self, name: &str) -> f64 {
        let number = self.settings[name].as_f64();
        number.unwrap_or_else(|| panic!("{name}: {}", self.settings))
    }

    /// Steps, rows of a batch and tokens of a row.
    fn shape(&self) -> [usize; 3] {
        self.file
            .tensor("input_ids")
            .unwrap()
            .shape()
            .try_into()
            .unwrap()
    }

    /// The batches in order.
    fn batches(&self) -> impl Iterator<Item = Batch> + use<> {
        let [count, rows, length] = self.shape();
        let input_ids = ids(&self.file, "input_ids");
        let mask = ids(&self.file, "attention_mask");
        let labels = ids(&self.file, "labels");
        let types = match self.family {
            "bert" => ids(&self.file, "token_type_ids"),
            _ => vec![0; input_ids.len()],
        };
        (0..count).map(move |step| {
            let tokens = step * rows * length..(step + 1) * rows * length;
            Batch {
                rows,
                len: length,
                ids: input_ids[tokens.clone()].to_vec(),
                type_ids: types[tokens.clone()].to_vec(),
                mask: mask[tokens].iter().map(|&m| m as f32).collect(),
                targets: Targets::classes(labels[step * rows..][..rows].to_vec()),
                indices: (0..rows).collect(),
            }
        })
    }

    /// The same model, adapter and optimiser, on the form of the step that fusion makes.
    fn trainer(&self, base: &str, outputs: usize, fusion: Fusion) -> (Trainer, PlanId, Model) {
        let base = fixtures().join("parity").join(base);
        let mut pretrained = Pretrained::open(&base, Head::classification(outputs)).unwrap();
        let folder = fixtures().join("peft").join(self.family);
        let adapter = Adapter::load(&folder, &mut pretrained).unwrap();
        let model = pretrained.model;
        let sites = trained_sites(&adapter, &model);
        let mut params = pretrained.weights;
        params.extend(adapter.tensors);

        let [count, rows, length] = self.shape();
        let program = model
            .program(Shape::new(rows, length), false, true)
            .unwrap();
        let adapted = adapt(&program, &sites, &Trainable::Adapters, Mode::Train).unwrap();
        let program = gradients(&adapted, "loss").unwrap();
        let mut engine = device::engine(params, fusion);
        let plan = engine.compile(&program).unwrap();
        let leaves = program.trained_parameters();
        let group = Group {
            lr: 1.0,
            parameters: leaves.map(|leaf| leaf.name.to_string()).collect(),
        };
        let config = AdamWConfig {
            weight_decay: self.number("weight_decay"),
            ..AdamWConfig::default()
        };
        let optimizer = AdamW::new(config, vec![group], engine.weights());
        let schedule = Schedule {
            kind: ScheduleKind::Linear,
            warmup: self.number("warmup_steps") as u64,
            total: count as u64,
        };
        let (lr, clip) = (self.number("lr"), Some(self.number("max_grad_norm")));
        let trainer = Trainer::new(engine, optimizer, lr, schedule, clip, 0);
        (trainer, plan, model)
    }
}

#[test]
fn twenty_steps_equal_pefts() {
    for (family, base, outputs) in [
        ("bert", "bert_cls-0", 2),
        ("roberta", "roberta_cls-0", 3),
        ("deberta_v3", "deberta_v3_cls-0", 2),
    ] {
        let file = fixtures()
            .join("peft")
            .join(family)
            .join("steps.safetensors");
        let bytes = std::fs::read(file).unwrap();
        let steps = Steps::new(family, &bytes);
        for fusion in [Fusion::Off, Fusion::At(Costs::default())] {
            let (trainer, plan, model) = steps.trainer(base, outputs, fusion);
            compare(&steps, trainer, plan, &model);
        }
    }
}

fn compare(steps: &Steps<'_>, mut trainer: Trainer, plan: PlanId, model: &Model) {
    let family = steps.family;
    let losses = floats(&steps.file, "losses");
    let norms = floats(&steps.file, "grad_norms");
    for (step, batch) in steps.batches().enumerate() {
        let inputs = model.inputs(&batch);
        let micro = MicroBatch {
            plan,
            inputs: inputs.values(),
            rows: batch.rows,
            targets: batch.rows,
        };
        let report = trainer.step(&[micro]).unwrap();
        let expected = f64::from(losses[step]);
        assert!(
            (report.loss - expected).abs() <= device::tolerance(1e-5),
            "{family}, step {step}: loss {} but PEFT's is {expected}",
            report.loss
        );
        let expected = f64::from(norms[step]);
        assert!(
            (report.gradient_norm - expected).abs() <= device::tolerance(1e-4) * expected.max(1.0),
            "{family}, step {step}: norm {} but PEFT's is {expected}",
            report.gradient_norm
        );
    }
    for (name, found) in trainer.trained().unwrap() {
        let expected = floats(&steps.file, &format!("final.base_model.model.{name}"));
        assert!(
            close(&found.floats(), &expected, 5e-6) || !device::is_float32(),
            "{family}: {name} ends elsewhere"
        );
    }
}
