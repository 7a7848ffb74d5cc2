use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use ailora_runtime::store;

use super::{Existing, OutputError, check_not_read};

/// One file that is written at the end, or standard output.
#[derive(Clone, Debug)]
pub struct File {
    path: PathBuf,
    existing: Existing,
}

impl File {
    /// A place for a file, whose name may be `-` for standard output. What is neither a regular file
    /// nor a folder, such as a FIFO, is written to.
    ///
    /// # Errors
    /// There is a file already that `existing` keeps, or that is among or in `inputs`.
    pub fn at(path: &Path, existing: Existing, inputs: &[&Path]) -> Result<Self, OutputError> {
        let file = Self {
            path: path.to_owned(),
            existing,
        };
        if file.is_stdout() || store::is_stream(path) {
            return Ok(file);
        }
        if path.is_dir() {
            return Err(OutputError::Kind {
                path: path.to_owned(),
                found: "a folder",
                expected: "the name of a file to write",
            });
        }
        if path.exists() {
            check_not_read(path, path, inputs)?;
            if existing != Existing::Replace {
                return Err(OutputError::Exists(path.to_owned()));
            }
            // Nothing of a model's or an adapter's folder is replaced by something else.
            let folder = path
                .parent()
                .filter(|folder| !folder.as_os_str().is_empty());
            check_not_read(path, folder.unwrap_or(Path::new(".")), inputs)?;
            let real = path.canonicalize().ok();
            if let Some(folder) = real.as_deref().and_then(Path::parent) {
                check_not_read(path, folder, inputs)?;
            }
        }
        Ok(file)
    }

    /// Whether it is standard output.
    pub fn is_stdout(&self) -> bool {
        self.path == Path::new("-")
    }

    /// Its name.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes it, whole or not at all.
    ///
    /// # Errors
    /// It cannot be written, or somebody wrote a file there meanwhile.
    pub fn write(&self, bytes: &[u8]) -> Result<(), OutputError> {
        if self.is_stdout() {
            let mut out = io::stdout().lock();
            let written = out.write_all(bytes).and_then(|()| out.flush());
            return written.map_err(OutputError::io(Path::new("standard output"), "write to it"));
        }
        match self.existing {
            Existing::Replace => store::write_atomically(&self.path, bytes)?,
            _ => store::write_new(&self.path, bytes)?,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_is_kept_unless_it_may_be_replaced_and_inputs_always_are() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir(path("model")).unwrap();
        for name in ["data.tsv", "model/config.json", "rows.jsonl"] {
            fs::write(path(name), "mine").unwrap();
        }
        let (model, data) = (path("model"), path("data.tsv"));
        let inputs = [&*model, &*data];
        let at = |name: &str, existing| File::at(&path(name), existing, &inputs);
        let error = |name: &str, existing| at(name, existing).unwrap_err().to_string();
        assert!(error("rows.jsonl", Existing::Refuse).contains("exists already"));
        at("rows.jsonl", Existing::Replace)
            .unwrap()
            .write(b"new")
            .unwrap();
        assert_eq!(fs::read(path("rows.jsonl")).unwrap(), b"new");
        for name in ["data.tsv", "model/../data.tsv", "model/config.json"] {
            for existing in [Existing::Refuse, Existing::Replace] {
                error(name, existing);
            }
            assert!(
                error(name, Existing::Replace).contains("what is read"),
                "{name}"
            );
        }
        assert!(error("model", Existing::Replace).contains("is a folder"));
        // What comes while something is computed is kept as well.
        let late = at("late", Existing::Refuse).unwrap();
        fs::write(path("late"), "mine").unwrap();
        late.write(b"new").unwrap_err();
        assert_eq!(fs::read(path("late")).unwrap(), b"mine");
    }
}
