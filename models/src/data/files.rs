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
        let (mut data, mut others) = (Vec::new(), Vec::new());
        for entry in entries {
            let is_named = !name(&entry).starts_with(['.', '_']) && Auto::ending(&entry).is_some();
            // A link that leads nowhere is a shard that is missing.
            let is_file = || entry.metadata().map(|found| found.is_file());
            let is_data = is_named
                && is_file().map_err(|source| DataError::Read {
                    path: entry.clone(),
                    source,
                })?;
            match is_data {
                true => data.push(entry),
                false => others.push(entry),
            }
        }
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
                text: format!(
                    "not read, since they are no files with names of data: {}",
                    names.join(", ")
                ),
            });
        }
    }
    Ok((found, notes))
}

fn name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}
