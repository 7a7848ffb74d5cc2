//! What the programs of an objective's passes compute.

mod support;

use std::sync::Arc;

use ailora_graph::Trainable;
use ailora_models::{
    batch::Shape,
    objective::{Causal, Objective, Pass, Predictor},
    pretrained::Pretrained,
};
use ailora_runtime::backend::Precision;

/// What tokens are predicted is counted in evaluations, whose logits stay where they are, and not in training.
#[test]
fn only_evaluations_count_what_is_predicted() {
    let objective: Arc<dyn Objective> = Arc::new(Causal::new("answer"));
    let fixture = support::fixtures().join("parity/llama_mha-0");
    let base = Pretrained::open(&fixture, objective.head()).unwrap();
    let sites = base.model.sites();
    let predictor = Predictor::new(base.model, objective, sites, Trainable::All, 0);
    for (pass, outputs) in [
        (Pass::Evaluate, Some(["loss", "matches"])),
        (Pass::Train, None),
    ] {
        let program = predictor.program(Shape::new(2, 8), pass, Precision::F32);
        let program = program.unwrap();
        let counts = program.to_string().matches("= matches ").count();
        assert_eq!(counts, usize::from(outputs.is_some()), "{program}");
        if let Some(outputs) = outputs {
            let names: Vec<&str> = program.outputs().keys().map(|name| &**name).collect();
            assert_eq!(names, outputs);
        }
    }
}
