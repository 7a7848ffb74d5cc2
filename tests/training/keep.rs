//! Which epoch's adapter is left, and that it is the same one after an interruption.

use std::path::Path;

use ailora::{
    AdaptConfig,
    finetune::Settings,
    method::Lora,
    output::Existing,
    run::{Report, Stage},
    runtime::train::{Control, Event, Keep, Outcome},
};
use serde_json::Value;

use super::{FINETUNE, close, number, questions, support::Scene};

/// A run of five epochs, of which the fourth is the best.
fn settings(scene: &Scene, keep: Option<Keep>) -> Settings {
    Settings {
        model: scene.path("bert").display().to_string(),
        task: "cola".into(),
        data: Some(scene.path("cola")),
        adapters: AdaptConfig::method(&Lora, 4),
        epochs: 6,
        max_steps: Some(30),
        batch_size: 8,
        lr: 3e-2,
        keep,
        ..Settings::default()
    }
}

fn run(settings: &Settings, output: &Path, stop_at: Option<u64>) -> Report {
    let run = settings.run().unwrap();
    run.fit(output, Existing::Resume, |stage| match stage {
        Stage::Training(Event::Step { report, .. }) if Some(report.step) == stop_at => {
            Control::Stop
        }
        _ => Control::Continue,
    })
    .unwrap()
}

fn score(scene: &Scene, adapter: &str) -> Value {
    let args = format!("evaluate --model bert --task cola --data cola --adapter {adapter}");
    let found: Value = serde_json::from_str(&scene.ok(&args)).unwrap();
    found["dev"].clone()
}

#[test]
fn the_best_epoch_is_left_or_the_last() {
    let scene = Scene::new();
    let report = run(&settings(&scene, None), &scene.path("best"), None);
    let best = report.best.clone().unwrap();
    let last = report.evaluations.last().unwrap();
    assert_eq!((best.epoch, last.epoch), (4, 5), "{:?}", report.evaluations);
    assert_ne!(best.metrics, last.metrics);
    assert_eq!(
        (report.keep, report.kept.as_ref()),
        (Keep::Best, Some(&best))
    );
    let metrics = scene.json("best/metrics.json");
    assert_eq!(
        (&metrics["keep"], &metrics["kept"]),
        (&"best".into(), &best.epoch.into())
    );
    let found = score(&scene, "best");
    for (name, &value) in &best.metrics {
        close(number(&found, name), value, 1e-5);
    }

    let report = run(
        &settings(&scene, Some(Keep::Last)),
        &scene.path("last"),
        None,
    );
    assert_eq!(report.best.as_ref(), Some(&best));
    assert_eq!(report.kept.as_ref().map(|kept| kept.epoch), Some(5));
    let found = score(&scene, "last");
    for (name, &value) in &last.metrics {
        close(number(&found, name), value, 1e-5);
    }
    let adapter = "adapter_model.safetensors";
    let [a, b] = ["best", "last"].map(|out| scene.read(&format!("{out}/{adapter}")));
    assert_ne!(a, b);
}

/// Stopped within the epoch behind the best one, and at its end, and gone on with: the bits of the adapter
/// that is left are those of a run that was never stopped.
#[test]
fn the_best_epoch_survives_an_interruption() {
    let scene = Scene::new();
    let settings = settings(&scene, None);
    let whole = run(&settings, &scene.path("whole"), None);
    let best = whole.best.clone().unwrap();
    let adapter = |out: &str| scene.read(&format!("{out}/adapter_model.safetensors"));
    for stop in [best.step - 1, best.step, best.step + 2] {
        let out = format!("stopped-{stop}");
        let stopped = run(&settings, &scene.path(&out), Some(stop));
        assert_eq!(stopped.outcome, Outcome::Stopped);
        // What a stopped run leaves is the best so far.
        if stop >= best.step {
            assert_eq!(stopped.kept, Some(best.clone()));
            assert_eq!(adapter(&out), adapter("whole"));
        }
        let done = run(&settings, &scene.path(&out), None);
        assert_eq!(done.kept, Some(best.clone()));
        assert_eq!(adapter(&out), adapter("whole"), "{stop}");
        assert_eq!(scene.losses(&out), scene.losses("whole"));
    }
}

/// The fourth epoch is the best, so that with a patience of one the fifth is the last. The bits are those of a
/// run of five epochs by its schedule of six, before and after an interruption.
#[test]
fn training_stops_when_no_epoch_gets_better() {
    let scene = Scene::new();
    let patient = Settings {
        max_steps: None,
        patience: Some(1),
        ..settings(&scene, None)
    };
    let report = run(&patient, &scene.path("patient"), None);
    let epochs = |report: &Report| report.evaluations.len();
    assert_eq!(
        (report.outcome, epochs(&report)),
        (Outcome::Finished, 5),
        "{:?}",
        report.evaluations
    );
    let cut = run(&settings(&scene, None), &scene.path("cut"), None);
    assert_eq!(report.evaluations, cut.evaluations);
    assert_eq!(scene.losses("patient"), scene.losses("cut"));
    let stopped = run(&patient, &scene.path("stopped"), Some(27));
    assert_eq!(stopped.outcome, Outcome::Stopped);
    let done = run(&patient, &scene.path("stopped"), None);
    assert_eq!(done.evaluations, report.evaluations);
    // What is at its end stays there, unless it is to wait longer.
    let again = run(&patient, &scene.path("stopped"), None);
    assert_eq!(epochs(&again), 5);
    let longer = Settings {
        patience: Some(2),
        ..patient
    };
    assert_eq!(epochs(&run(&longer, &scene.path("stopped"), None)), 6);
    let why = ["patience", "nothing is held out", "--patience"];
    let questions = questions();
    questions.refused(&format!("{FINETUNE} --output other --patience 2"), &why);
}

/// No epoch is the best where nothing is measured.
#[test]
fn nothing_is_best_that_was_not_measured() {
    let scene = questions();
    let ran = scene.run(&format!(
        "{FINETUNE} --batch-size 4 --epochs 2 --output out"
    ));
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(
        !ran.stderr.contains("best") && !ran.stdout.contains("best"),
        "{ran:?}"
    );
    assert!(
        ran.stdout.contains("wrote out: epoch 2, the last"),
        "{ran:?}"
    );
    let metrics = scene.json("out/metrics.json");
    assert_eq!(metrics["best"], Value::Null);
    assert_eq!(metrics["headline"], Value::Null);
    assert_eq!(metrics["kept"], 2);
    let why = ["--keep best", "math", "no held-out metric", "--keep last"];
    scene.refused(&format!("{FINETUNE} --output other --keep best"), &why);
    assert!(!scene.path("other").exists());
    scene.fails(
        2,
        &format!("{FINETUNE} --output other --keep first"),
        &["best or last"],
    );
}
