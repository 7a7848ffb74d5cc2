//! Which adapter a model is used with.

use std::path::{Path, PathBuf};

use ailora_models::peft::Combine;

/// An adapter's folder.
#[derive(Clone, Copy, Debug)]
pub struct AdapterFolder<'a> {
    /// The folder.
    pub path: &'a Path,
    /// Whether it is used for another base or another task than it was trained for.
    pub force: bool,
}

/// A folder of an adapter that is combined with others.
#[derive(Clone, Debug, PartialEq)]
pub struct Weighted {
    /// What it is called beside the others.
    pub name: String,
    /// The folder.
    pub path: PathBuf,
    /// What the adapter is multiplied by.
    pub weight: f64,
}

/// Adapters of several folders, to be made one.
#[derive(Clone, Debug, PartialEq)]
pub struct Several {
    /// The folders.
    pub folders: Vec<Weighted>,
    /// How they are combined.
    pub how: Combine,
    /// Whether they are used for another base or another task than they were trained for.
    pub force: bool,
}

/// The adapter of a folder, or one of several.
#[derive(Clone, Copy, Debug)]
pub enum Chosen<'a> {
    /// Of one folder.
    Folder(AdapterFolder<'a>),
    /// Of several.
    Several(&'a Several),
}

impl<'a> From<AdapterFolder<'a>> for Chosen<'a> {
    fn from(folder: AdapterFolder<'a>) -> Self {
        Self::Folder(folder)
    }
}

impl<'a> From<&'a Several> for Chosen<'a> {
    fn from(several: &'a Several) -> Self {
        Self::Several(several)
    }
}

impl<'a> Chosen<'a> {
    /// The folders.
    pub fn folders(self) -> Vec<&'a Path> {
        match self {
            Self::Folder(folder) => vec![folder.path],
            Self::Several(several) => {
                let folders = several.folders.iter();
                folders.map(|folder| folder.path.as_path()).collect()
            }
        }
    }
}
