//! Fine-tuning: a pretrained folder and a task's files become an adapter folder.

mod about;
mod chosen;
mod continued;
mod folder;
mod learner;
mod model;
mod rows;
mod settings;

pub use about::About;
pub use chosen::{AdapterFolder, Chosen, Several, Weighted};
pub use folder::write_model;
pub use learner::Finetuning;
pub use model::Model;
pub use settings::Settings;

use std::path::{Path, PathBuf};

use ailora_models::{embedded, task::Task};

use crate::run::{Error, SettingsError};

/// The longest sequence that an adapter was trained with, if its folder says so.
pub fn trained_length(adapter: &Path) -> Option<usize> {
    let about = std::fs::read(adapter.join("ailora.json")).ok()?;
    let about: serde_json::Value = serde_json::from_slice(&about).ok()?;
    usize::try_from(about["max_length"].as_u64()?).ok()
}

/// The folder of a task's files: the given one or, without, what is built in.
///
/// # Errors
/// Nothing is given and nothing is built in, or that cannot be written to a folder.
pub fn data(task: &Task, given: Option<&Path>) -> Result<PathBuf, Error> {
    if let Some(given) = given {
        return Ok(given.to_owned());
    }
    let built_in = embedded::data(&task.name)?;
    Ok(built_in.ok_or(SettingsError::Missing("data"))?)
}
