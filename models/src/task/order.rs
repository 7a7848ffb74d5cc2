//! Which output of a model's head is which class of a task.

use thiserror::Error;

use super::Task;
use crate::config::Config;

/// A model whose labels are not those of the task.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "`id2label` of the model's config.json has the labels {found}; those of task {task} are \
     {expected}; give a model with these, or correct `id2label` if it has them by other names"
)]
pub struct OtherLabels {
    /// The task.
    pub task: &'static str,
    /// Its labels.
    pub expected: String,
    /// The model's.
    pub found: String,
}

impl Task {
    /// For each class of the task, which output of the model's head it is: the one that `id2label`
    /// gives its name, whatever the case. Nothing where they are in the task's own order: the model
    /// gives its labels no names, or has another number of them and so no head for the task.
    ///
    /// # Errors
    /// The model has as many labels, but by other names.
    pub fn order(&self, config: &Config) -> Result<Option<Vec<usize>>, OtherLabels> {
        let names = self.label_names();
        let Some(labels) = config.labels().filter(|labels| labels.len() == names.len()) else {
            return Ok(None);
        };
        let plain = |name: &str| name.trim().to_lowercase().replace([' ', '-'], "_");
        let place = |name: &&str| labels.iter().position(|label| plain(label) == plain(name));
        let order: Option<Vec<usize>> = names.iter().map(place).collect();
        let Some(order) = order else {
            return Err(OtherLabels {
                task: self.name,
                expected: names.join(", "),
                found: labels.join(", "),
            });
        };
        Ok((!order.iter().copied().eq(0..order.len())).then_some(order))
    }
}

/// Rows of logits in a task's order, from those in the model's.
pub(crate) fn in_task_order(order: Option<&[usize]>, logits: &[f32]) -> Vec<f32> {
    let Some(order) = order.filter(|order| !order.is_empty()) else {
        return logits.to_vec();
    };
    let rows = logits.chunks_exact(order.len());
    rows.flat_map(|row| order.iter().map(|&output| row[output]))
        .collect()
}
