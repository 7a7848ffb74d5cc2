//! Scores of what a model writes.

use std::collections::HashMap;

use ailora_runtime::{
    collective::gather,
    engine::{Engine, EngineError},
};
use indexmap::IndexMap;
use serde_json::{Value, json};

use super::{Objective, ObjectiveError};
use crate::{
    generate::{WriteOptions, Writer},
    metrics::{self, Metric, MetricError, SHARES, TEXTS, texts},
    score::arithmetic::{Answer, LLM_ADAPTERS},
};

/// Texts that a model writes about held-out rows while it is trained.
#[derive(Debug)]
pub struct Writing {
    /// What writes.
    pub writer: Writer,
    /// How.
    pub options: WriteOptions,
    /// The rows of every split, by its name.
    pub splits: HashMap<String, Written>,
}

/// Rows about which is written.
#[derive(Clone, Debug, Default)]
pub struct Written {
    /// What is read of each.
    pub prompts: Vec<Vec<i32>>,
    /// What its text is scored against, whole.
    pub targets: Vec<Option<Value>>,
}

impl Writing {
    /// Scores of the texts that are written about a split's rows, with the parameters of `engine`, which gets
    /// the programs too. Of several ranks each writes some of the batches, and all get the same scores.
    ///
    /// # Errors
    /// A prompt that cannot be written behind, or a metric that cannot score what is.
    pub fn scores(
        &mut self,
        objective: &dyn Objective,
        engine: &mut Engine,
        split: &str,
    ) -> Result<IndexMap<String, f64>, ObjectiveError> {
        let Some(rows) = self.splits.get(split) else {
            return Ok(IndexMap::new());
        };
        let ranks = engine.ranks().clone();
        let owns = |batch| ranks.owns(batch);
        let found = self
            .writer
            .tokens(engine, &rows.prompts, &self.options, owns)?;
        // Tokens are whole numbers far below 2^24.
        let floats = |tokens: Vec<i32>| tokens.into_iter().map(|token| token as f32).collect();
        let mut found: Vec<Vec<f32>> = found.into_iter().map(floats).collect();
        gather(&*ranks, &mut found).map_err(EngineError::from)?;
        let read = |tokens: &Vec<f32>| {
            let tokens: Vec<i32> = tokens.iter().map(|&token| token as i32).collect();
            self.writer.read(&tokens)
        };
        let texts: Vec<String> = found.iter().map(read).collect();
        scores(objective, &texts, &rows.targets)
    }
}

/// Scores of written texts by name, the objective's metrics; `targets` are those of the rows, whole.
///
/// # Errors
/// A metric cannot score them.
pub fn scores(
    objective: &dyn Objective,
    texts: &[String],
    targets: &[Option<Value>],
) -> Result<IndexMap<String, f64>, ObjectiveError> {
    let texts: Vec<Value> = texts.iter().map(|text| json!(text)).collect();
    let reference = |target: &Option<Value>| match target {
        Some(target) => objective.reference(target),
        None => Value::Null,
    };
    let references: Vec<Value> = targets.iter().map(reference).collect();
    Ok(metrics::score(
        objective.text_metrics(),
        &texts,
        &references,
    )?)
}

/// Checks that what is written about a split's rows can be scored against their targets, before anything is.
///
/// # Errors
/// The first target that no metric can score against.
pub fn check(
    objective: &dyn Objective,
    split: &str,
    targets: &[Option<Value>],
) -> Result<(), ObjectiveError> {
    if targets.is_empty() {
        return Ok(());
    }
    let nothing = vec![String::new(); targets.len()];
    match scores(objective, &nothing, targets) {
        Err(ObjectiveError::Metric(MetricError::Value {
            row,
            expected,
            found,
        })) => Err(ObjectiveError::Reference {
            row: row + 1,
            split: split.to_owned(),
            expected,
            found,
        }),
        scored => scored.map(drop),
    }
}

/// What a written text answers, by the rule `llm-adapters`, if that is what it is scored by: its name, `number`
/// or `letter`, and what was found, or null. It is a letter where `target` says that one is right.
pub fn answer(
    objective: &dyn Objective,
    text: &str,
    target: Option<&Value>,
) -> Option<(&'static str, Value)> {
    let is_share = |metric: &Metric| SHARES.contains(metric);
    objective.text_metrics().iter().find(|m| is_share(m))?;
    let right = target.and_then(|target| texts::answer(&objective.reference(target)));
    Some(match right {
        Some(Answer::Letter(_)) => ("letter", json!((LLM_ADAPTERS.letter)(text))),
        _ => ("number", json!((LLM_ADAPTERS.number)(text))),
    })
}

/// Checks that metrics are of texts.
///
/// # Errors
/// The first that is not.
pub(super) fn suit(metrics: &[Metric]) -> Result<(), String> {
    match metrics.iter().find(|metric| !TEXTS.contains(metric)) {
        None => Ok(()),
        Some(Metric { name, .. }) => Err(format!(
            "`metrics`: `{name}` is not of texts; expected one of {}",
            TEXTS.map(|metric| metric.name).join(", ")
        )),
    }
}
