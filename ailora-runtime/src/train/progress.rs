use std::{fmt, str::FromStr};

use indexmap::IndexMap;
use serde::{Deserialize, Deserializer, Serialize};
use thiserror::Error;

/// Which values of a score are better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    /// Larger ones, as of an accuracy.
    Higher,
    /// Smaller ones, as of a loss.
    Lower,
}

/// A score by which one evaluation may be better than another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Headline {
    /// Its name among the metrics.
    pub name: String,
    /// Which values are better.
    pub better: Better,
}

impl Headline {
    /// A score that is better when it is larger.
    pub fn higher(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            better: Better::Higher,
        }
    }

    /// A score that is better when it is smaller.
    pub fn lower(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            better: Better::Lower,
        }
    }
}

/// Which parameters a run leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Keep {
    /// Those of the best evaluation, by the headline metric.
    Best,
    /// Those of the last one.
    Last,
}

impl FromStr for Keep {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "best" => Ok(Self::Best),
            "last" => Ok(Self::Last),
            _ => Err(format!("expected best or last, found `{text}`")),
        }
    }
}

impl fmt::Display for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Best => "best",
            Self::Last => "last",
        })
    }
}

/// No evaluation can be the best.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BestError {
    /// The headline metric is not measured.
    #[error(
        "the best evaluation is to be the one by `{name}`, which none reports; expected one of {known}"
    )]
    Unknown {
        /// The headline metric.
        name: String,
        /// The metrics there are.
        known: String,
    },
    /// It never was a number.
    #[error(
        "`{name}` was NaN in all {count} evaluations, so that none is the best; the last checkpoint is \
         intact: keep the last parameters instead, or judge by another metric"
    )]
    NeverANumber {
        /// The headline metric.
        name: String,
        /// How many evaluations there were.
        count: usize,
    },
}

impl BestError {
    /// Unless a headline metric is among those that are `known`.
    pub(super) fn unless<'a>(
        headline: Option<&Headline>,
        known: impl Iterator<Item = &'a str> + Clone,
    ) -> Result<(), Self> {
        match headline {
            Some(Headline { name, .. }) if !known.clone().any(|known| known == name) => {
                Err(Self::Unknown {
                    name: name.clone(),
                    known: known.collect::<Vec<_>>().join(", "),
                })
            }
            _ => Ok(()),
        }
    }
}

/// What held-out rows said of the parameters after a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// The epoch, from 1.
    pub epoch: usize,
    /// The step after which it was made.
    pub step: u64,
    /// Whether it was made in the middle of the epoch.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub midway: bool,
    /// The mean loss over the targets since the evaluation before.
    pub train_loss: f64,
    /// The metrics by name.
    #[serde(deserialize_with = "numbers")]
    pub metrics: IndexMap<String, f64>,
}

/// Numbers by name; in JSON, NaN is null.
fn numbers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<IndexMap<String, f64>, D::Error> {
    let numbers = IndexMap::<String, Option<f64>>::deserialize(deserializer)?;
    let number = |(name, number): (String, Option<f64>)| (name, number.unwrap_or(f64::NAN));
    Ok(numbers.into_iter().map(number).collect())
}

impl Evaluation {
    /// When it was made: `epoch 2`, or `epoch 2, step 40` in the middle of an epoch.
    pub fn place(&self) -> String {
        match self.midway {
            true => format!("epoch {}, step {}", self.epoch, self.step),
            false => format!("epoch {}", self.epoch),
        }
    }
}

/// Where a loop stands: what a checkpoint adds to the trainer's state.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// The evaluations so far.
    pub evaluations: Vec<Evaluation>,
    /// The sum of the losses of the targets since the last evaluation.
    pub loss_sum: f64,
    /// How many targets that are.
    pub targets: usize,
    /// The step of the evaluation whose parameters the trainer keeps.
    pub kept: Option<u64>,
}

impl Progress {
    /// Whether what there is after this step was evaluated.
    pub(super) fn is_evaluated(&self, step: u64) -> bool {
        self.evaluations
            .last()
            .is_some_and(|last| last.step >= step)
    }

    /// The evaluation with the best headline score, the first of equals; none where that was never
    /// measured or never a number.
    pub fn best(&self, headline: Option<&Headline>) -> Option<&Evaluation> {
        let Headline { name, better } = headline?;
        let measured = |evaluation: &'_ Evaluation| -> Option<f64> {
            let value = *evaluation.metrics.get(name)?;
            (!value.is_nan()).then_some(match better {
                Better::Higher => value,
                Better::Lower => -value,
            })
        };
        let values = self
            .evaluations
            .iter()
            .filter_map(|evaluation| Some((evaluation, measured(evaluation)?)));
        let best = values.reduce(|best, next| if next.1 > best.1 { next } else { best });
        best.map(|(evaluation, _)| evaluation)
    }

    /// Whether the last `patience` evaluations are no better than those before.
    pub(super) fn is_out_of_patience(
        &self,
        headline: Option<&Headline>,
        patience: Option<usize>,
    ) -> bool {
        let (Some(_), Some(patience)) = (headline, patience) else {
            return false;
        };
        let best = self.best(headline).map(|best| best.step);
        let since = self.evaluations.iter().rev();
        let since = since.take_while(|evaluation| Some(evaluation.step) != best);
        since.count() >= patience
    }

    /// Unless one of several evaluations is the best.
    pub(super) fn check_best(&self, headline: Option<&Headline>) -> Result<(), BestError> {
        match (headline, self.best(headline)) {
            (Some(Headline { name, .. }), None) if !self.evaluations.is_empty() => {
                Err(BestError::NeverANumber {
                    name: name.clone(),
                    count: self.evaluations.len(),
                })
            }
            _ => Ok(()),
        }
    }
}
