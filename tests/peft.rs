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

#[test]
fn twenty_steps_equal_pefts() {
    let families = [
        ("bert", "bert_cls-0", 2),
        ("roberta", "roberta_cls-0", 3),
        ("deberta_v3", "deberta_v3_cls-0", 2),
    ];
    let forms = [Fusion::Off, Fusion::At(Costs::default())];
    for ((family, base, outputs), fusion) in families
        .into_iter()
        .flat_map(|family| forms.map(|fusion| (family, fusion)))
    {
        let folder = fixtures().join("peft").join(family);
        let bytes = std::fs::read(folder.join("steps.safetensors")).unwrap();
        let steps = SafeTensors::deserialize(&bytes).unwrap();
        let json = std::fs::read_to_string(folder.join("steps.json")).unwrap();
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        let number = |name: &str| {
            json[name]
                .as_f64()
                .unwrap_or_else(|| panic!("{name}: {json}"))
        };

        let mut pretrained = Pretrained::open(
            &fixtures().join("parity").join(base),
            Head::classification(outputs),
        )
        .unwrap();
        let adapter = Adapter::load(&folder, &mut pretrained).unwrap();
        let sites = trained_sites(&adapter, &pretrained.model);
        let mut params = std::mem::take(&mut pretrained.weights);
        params.extend(adapter.tensors.clone());

        let [count, rows, length] = *steps.tensor("input_ids").unwrap().shape() else {
            panic!("three axes");
        };
        let program = pretrained
            .model
            .program(Shape::new(rows, length), false, true)
            .unwrap();
        let program = gradients(
            &adapt(&program, &sites, &Trainable::Adapters, Mode::Train).unwrap(),
            "loss",
        )
        .unwrap();
        let mut engine = device::engine(params, fusion);
        let plan = engine.compile(&program).unwrap();
        let group = Group {
            lr: 1.0,
            parameters: program
                .trained_parameters()
                .map(|leaf| leaf.name.to_string())
                .collect(),
        };
        let config = AdamWConfig {
            weight_decay: number("weight_decay"),
            ..AdamWConfig::default()
        };
        let optimizer = AdamW::new(config, vec![group], engine.weights());
        let schedule = Schedule {
            kind: ScheduleKind::Linear,
            warmup: number("warmup_steps") as u64,
            total: count as u64,
        };
        let clip = Some(number("max_grad_norm"));
        let mut trainer = Trainer::new(engine, optimizer, number("lr"), schedule, clip, 0);

        let input_ids = ids(&steps, "input_ids");
        let mask: Vec<f32> = ids(&steps, "attention_mask")
            .iter()
            .map(|&m| m as f32)
            .collect();
        let labels = ids(&steps, "labels");
        let types = if family == "bert" {
            ids(&steps, "token_type_ids")
        } else {
            vec![0; input_ids.len()]
        };
        let losses = floats(&steps, "losses");
        let norms = floats(&steps, "grad_norms");
        for step in 0..count {
            let tokens = step * rows * length..(step + 1) * rows * length;
            let batch = Batch {
                rows,
                len: length,
                ids: input_ids[tokens.clone()].to_vec(),
                type_ids: types[tokens.clone()].to_vec(),
                mask: mask[tokens].to_vec(),
                targets: Targets::classes(labels[step * rows..][..rows].to_vec()),
                indices: (0..rows).collect(),
            };
            let inputs = pretrained.model.inputs(&batch);
            let inputs = inputs.values();
            let micro = MicroBatch {
                plan,
                inputs,
                rows,
                targets: rows,
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
                (report.gradient_norm - expected).abs()
                    <= device::tolerance(1e-4) * expected.max(1.0),
                "{family}, step {step}: norm {} but PEFT's is {expected}",
                report.gradient_norm
            );
        }
        for (name, found) in trainer.trained().unwrap() {
            let peft = format!("final.base_model.model.{name}");
            let expected = floats(&steps, &peft);
            assert!(
                close(&found.floats(), &expected, 5e-6) || !device::is_float32(),
                "{family}: {name} ends elsewhere"
            );
        }
    }
}
