//! A model of your own as a run: the example's, held to what runs promise.

#[path = "../examples/12_vit.rs"]
#[allow(dead_code, reason = "the example's main is not called")]
mod example;

use std::{fs, path::Path, sync::Arc, thread};

use ailora::{
    Trainable,
    output::Existing,
    run::{BuildError, Columns, Error, Own, OwnError, Run, Stage},
    runtime::{
        collective::{Collective, threads},
        cpu::Cpu,
        device::Device,
        store::{self, Params},
        train::{Control, Event, Outcome},
    },
};
use example::{images, learner, train, vit, weights};

fn trained(folder: &Path) -> Params {
    store::load(&folder.join("adapter.safetensors")).unwrap().0
}

#[test]
fn a_run_goes_on_is_loaded_and_merged() {
    let scene = tempfile::tempdir().unwrap();
    let [whole, parts] = ["whole", "parts"].map(|name| scene.path().join(name));
    let report = train(Device::Cpu, &whole, None).unwrap();
    for stop in [Some(7), Some(20), None] {
        train(Device::Cpu, &parts, stop).unwrap();
    }
    assert_eq!(report.outcome, Outcome::Finished);
    assert_eq!(trained(&parts), trained(&whole));
    let best = report.best.unwrap();
    assert!(best.metrics["accuracy"] > 0.9, "{:?}", best.metrics);

    // What is left is the best epoch's, beside the weights and in them.
    let cpu = || Box::new(Cpu::new());
    let before = learner(weights().unwrap()).unwrap();
    let before = before.evaluate(cpu(), 50).unwrap();
    let loaded = learner(weights().unwrap()).unwrap().load(&whole).unwrap();
    let merged = learner(loaded.merged().unwrap()).unwrap();
    assert!(before["accuracy"] < 0.5, "{before:?}");
    for found in [
        loaded.evaluate(cpu(), 50).unwrap(),
        merged.evaluate(cpu(), 64).unwrap(),
    ] {
        assert_eq!(found["accuracy"], best.metrics["accuracy"]);
        let difference = (found["loss"] - best.metrics["loss"]).abs();
        assert!(difference < 1e-5, "{difference}");
    }

    // Another model's adapter, and a folder without one, are refused.
    let mut tensors = trained(&whole);
    let (name, _) = tensors.shift_remove_index(0).unwrap();
    let error = |scene: &Path| {
        let error = learner(weights().unwrap()).unwrap().load(scene);
        error.unwrap_err().to_string()
    };
    let path = whole.join("adapter.safetensors");
    store::save(&path, &tensors, Default::default()).unwrap();
    let found = error(&whole);
    assert!(
        found.contains("lacks the tensor") && found.contains(&name),
        "{found}"
    );
    tensors.insert("other".into(), tensors[0].clone());
    store::save(&path, &tensors, Default::default()).unwrap();
    assert!(error(&whole).contains("`other`"), "{}", error(&whole));
    fs::create_dir(scene.path().join("empty")).unwrap();
    let found = error(&scene.path().join("empty"));
    assert!(found.contains("no run.json"), "{found}");
}

/// A model whose projections are called as parts of adapters' names are.
mod odd {
    #![allow(non_snake_case, reason = "the names are what is tested")]

    use ailora::{
        prelude::*,
        run::{Batch, BuildError, Built},
    };

    #[adapt(lora_A = random(2), weight = random(2))]
    struct Odd {
        lora_A: Linear,
        weight: Linear,
    }

    pub fn build(batch: &Batch<'_>) -> Result<Built, BuildError> {
        let (cx, rows) = (batch.cx(), batch.rows());
        let model = Odd {
            lora_A: Linear::new(cx, 4, 4, true),
            weight: Linear::new(cx, 4, 2, true),
        };
        let x = batch.column("x")?.reshape([rows, 4]);
        let logits = model.weight.forward(&model.lora_A.forward(&x).gelu());
        let loss = logits.cross_entropy(&batch.column("label")?);
        batch.built(&model, &[("loss", &loss), ("logits", &logits)])
    }
}

/// An adapter's tensors are called by the path and a part of their own, and are read by the whole name.
#[test]
fn projections_may_be_called_like_parts_of_adapters() {
    let array = |shape: &[usize], salt: usize| {
        let number = |i: usize| ((i * 7 + salt * 3) % 11) as f32 * 0.1 - 0.5;
        store::Array::new(shape, (0..shape.iter().product()).map(number).collect())
    };
    let weights = || -> Params {
        [
            ("lora_A.weight", array(&[4, 4], 1)),
            ("lora_A.bias", array(&[4], 2)),
            ("weight.weight", array(&[2, 4], 3)),
            ("weight.bias", array(&[2], 4)),
        ]
        .map(|(name, array)| (name.to_owned(), array))
        .into()
    };
    let rows = || {
        let x = (0..32).map(|i| (i * i % 7) as f32 - 3.0).collect();
        let labels = (0..8).map(|i| i % 2).collect();
        let rows = Columns::new().with_f32("x", [4], x).unwrap();
        rows.with_i32("label", [], labels).unwrap()
    };
    let own = || {
        let own = Own::new(&odd::build, weights(), rows()).unwrap();
        own.held_out("test", rows())
    };
    let folder = tempfile::tempdir().unwrap();
    let mut run = Run::new(own());
    (run.recipe.epochs, run.recipe.batch_size, run.recipe.lr) = (3, 4, 0.1);
    let report = run
        .fit(folder.path(), Existing::Refuse, |_| Control::Continue)
        .unwrap();
    let names: Vec<String> = trained(folder.path()).keys().cloned().collect();
    for name in [
        "lora_A.lora_A",
        "lora_A.lora_B",
        "weight.lora_A",
        "weight.lora_B",
    ] {
        assert!(names.contains(&format!("{name}.weight")), "{names:?}");
    }
    assert_eq!(names.len(), 4, "{names:?}");
    let loaded = own().load(folder.path()).unwrap();
    let found = loaded.evaluate(Box::new(Cpu::new()), 8).unwrap();
    let left = report.kept.unwrap().metrics;
    assert!((found["loss"] - left["loss"]).abs() < 1e-6);
    let base = own().evaluate(Box::new(Cpu::new()), 8).unwrap();
    assert!((found["loss"] - base["loss"]).abs() > 1e-3);
}

/// Norms and biases beside adapters, or the whole model, by a word in the configuration.
#[test]
fn what_trains_is_as_the_run_says() {
    for (trainable, count) in [
        (
            Trainable::Parameters(vec!["norm.*".into(), "*.bias".into()]),
            None,
        ),
        (Trainable::All, Some(weights().unwrap().len())),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let mut run = Run::new(learner(weights().unwrap()).unwrap());
        run.recipe.max_steps = Some(3);
        run.adapters.trainable = Some(trainable.clone());
        run.fit(folder.path(), Existing::Refuse, |_| Control::Continue)
            .unwrap();
        let trained = trained(folder.path());
        let first = weights().unwrap();
        let moved = |name: &str| trained.get(name).is_some_and(|now| *now != first[name]);
        let expected = |name: &str| match &trainable {
            Trainable::All => true,
            _ => {
                let full = name.starts_with("head") || name.starts_with("patches");
                full || name.contains("norm.") || name.ends_with(".bias")
            }
        };
        for name in first.keys() {
            assert_eq!(
                trained.contains_key(name),
                expected(name),
                "{trainable:?} {name}"
            );
            // A key's bias changes nothing that is computed.
            if expected(name) && !name.ends_with("key.bias") {
                assert!(moved(name), "{trainable:?} {name}");
            }
        }
        assert!(count.is_none_or(|count| trained.len() == count));
    }
}

/// Ranks with a part of every step each come to what one rank comes to with twice the micro-batches.
#[test]
fn two_ranks_are_a_run_of_twice_the_step() {
    let fit = |folder: &Path, ranks: Option<Arc<dyn Collective>>, accumulate| {
        let mut run = Run::new(learner(weights().unwrap()).unwrap());
        (run.recipe.epochs, run.recipe.batch_size) = (2, 24);
        (run.recipe.accumulate, run.recipe.checkpoint_every) = (accumulate, 4);
        run.ranks = ranks.unwrap_or(run.ranks);
        let mut losses = Vec::new();
        let report = run.fit(folder, Existing::Refuse, |stage| {
            if let Stage::Training(Event::Step { report, .. }) = stage {
                losses.push(report.loss);
            }
            Control::Continue
        });
        let last = report.unwrap().evaluations.pop().unwrap();
        (losses, last.metrics)
    };
    let scene = tempfile::tempdir().unwrap();
    let [alone, together] = ["alone", "together"].map(|name| scene.path().join(name));
    let (expected, scores) = fit(&alone, None, 2);
    let found = thread::scope(|scope| {
        let ranks = threads(2).into_iter().map(|rank| {
            let (fit, together) = (&fit, &together);
            scope.spawn(move || fit(together, Some(Arc::new(rank)), 1))
        });
        let ranks: Vec<_> = ranks.collect();
        ranks
            .into_iter()
            .map(|rank| rank.join().unwrap())
            .collect::<Vec<_>>()
    });
    assert_eq!(found[0], found[1]);
    assert_eq!(found[0].0.len(), expected.len());
    for (found, expected) in found[0].0.iter().zip(&expected) {
        assert!((found - expected).abs() < 1e-5, "{found} {expected}");
    }
    for (name, expected) in &scores {
        assert!((found[0].1[name] - expected).abs() < 1e-3, "{name}");
    }
    for (name, array) in trained(&alone) {
        for (found, expected) in trained(&together)[&name]
            .floats()
            .iter()
            .zip(array.floats().iter())
        {
            assert!(
                (found - expected).abs() < 1e-4,
                "{name}: {found} {expected}"
            );
        }
    }
}

#[test]
fn what_does_not_fit_is_named() {
    let mut lacking = weights().unwrap();
    lacking.shift_remove("norm.bias");
    let own = |weights, rows| Own::new(&vit, weights, rows);
    let error = own(lacking, images(4, 1).unwrap()).unwrap_err();
    assert!(
        matches!(&error, OwnError::NoValue { name, .. } if name == "norm.bias"),
        "{error}"
    );
    let error = own(weights().unwrap(), Columns::new()).unwrap_err();
    assert!(matches!(error, OwnError::Empty), "{error}");
    let pixels = Columns::new()
        .with_f32("pixels", [16, 16], vec![0.0; 256])
        .unwrap();
    match own(weights().unwrap(), pixels).unwrap_err() {
        OwnError::Build(BuildError::NoColumn { name, known }) => {
            assert_eq!((&*name, &*known), ("places", "pixels"));
        }
        other => panic!("{other}"),
    }
    let mut run = Run::new(learner(weights().unwrap()).unwrap());
    run.recipe.lr = f64::NAN;
    let folder = tempfile::tempdir().unwrap();
    let error = run.fit(folder.path(), Existing::Refuse, |_| Control::Continue);
    assert!(matches!(error, Err(Error::Settings(_))), "{error:?}");
}
