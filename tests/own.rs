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
