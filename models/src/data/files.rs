//! Which files are read, of those that are named.

use std::path::{Path, PathBuf};

use super::{Auto, DataError, ENDINGS};
use crate::closed::Note;

/// The files of these paths, in their order: of a folder those whose names say a format, sorted by
/// name, so that shards come in their order. Notes name what else a folder holds.
///
/// # Errors
/// A path that is not there, and a folder without data files.
pub fn files(paths: &[PathBuf]) -> Result<(Vec<PathBuf>, Vec<Note>), DataError> {
    let (mut found, mut notes) = (Vec::new(), Vec::new());
    for path in paths {
        let failed = |source| DataError::Read {
            path: path.clone(),
            source,
        };
        if !path.metadata().map_err(failed)?.is_dir() {
            found.push(path.clone());
            continue;
        }
        let entries = path.read_dir().map_err(failed)?;
        let entries: Result<Vec<PathBuf>, _> = entries.map(|e| Ok(e?.path())).collect();
        let mut entries = entries.map_err(failed)?;
        entries.sort();
        let (data, others): (Vec<PathBuf>, _) = entries.into_iter().partition(|entry| {
            let is_hidden = name(entry).starts_with(['.', '_']);
            !is_hidden && entry.is_file() && Auto::ending(entry).is_some()
        });
        if data.is_empty() {
            return Err(DataError::NoFiles {
                path: path.clone(),
                known: ENDINGS.to_vec(),
            });
        }
        found.extend(data);
        if !others.is_empty() {
            let names: Vec<String> = others.iter().map(|path| name(path)).collect();
            notes.push(Note {
                path: path.clone(),
                text: format!("not read, for their names: {}", names.join(", ")),
            });
        }
    }
    Ok((found, notes))
}

fn name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}
