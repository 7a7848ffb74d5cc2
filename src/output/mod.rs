//! Where results are written without losing what exists: a [`Folder`] of files, or one [`File`].
//!
//! What exists is refused, or replaced where the user says so. Nothing is ever written over the files that
//! are read.

mod file;
mod folder;
mod lock;

pub use file::File;
pub use folder::{ADAPTER, Folder, MODEL, OWN, RUN};
pub use lock::Lock;

use std::{
    io,
    path::{Path, PathBuf},
};

use ailora_runtime::store::StoreError;
use thiserror::Error;

/// What becomes of results that are there already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Existing {
    /// They stay, and nothing is written.
    #[default]
    Refuse,
    /// A run goes on from its last checkpoint; where there is none, it begins.
    Resume,
    /// They make room for new ones of the same kind.
    Replace,
}

/// A place that cannot be written, or must not be.
#[derive(Debug, Error)]
pub enum OutputError {
    /// It is read.
    #[error(
        "{output} already holds what is read for it ({input}), which is never written over, with \
         --force either: choose another place", output = output.display(), input = input.display()
    )]
    Input {
        /// The place.
        output: PathBuf,
        /// What is read there, as it was given.
        input: PathBuf,
    },
    /// Another process writes there.
    #[error(
        "{folder} is in use: another run writes to it. Wait until that ends, or choose another \
         folder", folder = .0.display()
    )]
    InUse(PathBuf),
    /// The folder holds a run.
    #[error(
        "{folder} already holds a run; add --resume to go on with it, --force to start anew in its \
         place, or choose another folder", folder = .0.display()
    )]
    Occupied(PathBuf),
    /// The folder holds something else.
    #[error(
        "{folder} is not empty: it holds {names}. Choose another folder, or add --force to replace \
         those files in it that this command writes", folder = folder.display()
    )]
    NotEmpty {
        /// The folder.
        folder: PathBuf,
        /// Some of what it holds.
        names: String,
    },
    /// The folder holds what would be read together with what is written.
    #[error(
        "{folder} holds {name}, which this command does not write and does not replace, and which \
         would be read together with what it writes. Move it away, or choose another folder",
        folder = folder.display()
    )]
    Foreign {
        /// The folder.
        folder: PathBuf,
        /// The file.
        name: String,
    },
    /// The file exists.
    #[error("{path} exists already; choose another name, or add --force to replace it", path = .0.display())]
    Exists(PathBuf),
    /// A folder where a file is to be written, or the other way round.
    #[error("{path} is {found}; expected {expected}", path = path.display())]
    Kind {
        /// The place.
        path: PathBuf,
        /// What is there.
        found: &'static str,
        /// What should be.
        expected: &'static str,
    },
    /// The operating system refused.
    #[error("{path}: cannot {action}: {source}", path = path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The file cannot be written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl OutputError {
    fn io(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io {
            path,
            action,
            source,
        }
    }
}

/// Refuses `output` if its place is one of `inputs`, however both are spelled.
fn check_not_read(output: &Path, place: &Path, inputs: &[&Path]) -> Result<(), OutputError> {
    let Ok(place) = place.canonicalize() else {
        return Ok(());
    };
    let same = |input: &&&Path| input.canonicalize().is_ok_and(|input| input == place);
    match inputs.iter().find(same) {
        None => Ok(()),
        Some(input) => Err(OutputError::Input {
            output: output.to_owned(),
            input: input.to_path_buf(),
        }),
    }
}
