use std::{
    fs, io,
    path::{Path, PathBuf},
};

use ailora_runtime::store;

use super::{Lock, OutputError, check_not_read};

/// The files of a run, beside its results.
pub const RUN: &[&str] = &[
    "run.json",
    "checkpoint.safetensors",
    "checkpoint.previous.safetensors",
    "train.jsonl",
    "evaluations.jsonl",
    "metrics.json",
];

/// The files of an adapter.
pub const ADAPTER: &[&str] = &[
    "adapter_config.json",
    "adapter_model.safetensors",
    "ailora.json",
];

/// What a run of a model of your own leaves.
pub const OWN: &[&str] = &["adapter.safetensors"];

/// The files of a model.
pub const MODEL: &[&str] = &[
    "model.safetensors",
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "spm.model",
    "tokenizer.model",
    "sentencepiece.bpe.model",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
];

/// How the names of files end that readers of models and adapters look for.
const WEIGHTS: [&str; 4] = [".safetensors", ".bin", ".gguf", ".index.json"];
/// Names that an error shows at most.
const SHOWN: usize = 3;

/// A folder for results, which nobody else writes to while this is there.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// What is read for what is written.
    inputs: Vec<PathBuf>,
    _lock: Lock,
}

impl Folder {
    /// Claims a folder, which is made if it is not there.
    ///
    /// # Errors
    /// It is one of `inputs`, by whatever spelling; another process has it; or it cannot be written.
    pub fn claim(path: &Path, inputs: &[&Path]) -> Result<Self, OutputError> {
        let kind = |found| OutputError::Kind {
            path: path.to_owned(),
            found,
            expected: "the name of a folder to write",
        };
        check_not_read(path, path, inputs)?;
        if path == Path::new("-") {
            return Err(kind("standard output"));
        }
        if path.exists() && !path.is_dir() {
            return Err(kind("a file"));
        }
        fs::create_dir_all(path).map_err(OutputError::io(path, "create the folder"))?;
        let lock = Lock::take(path)?;
        store::remove_partial(path).map_err(OutputError::io(path, "tidy it up"))?;
        Ok(Self {
            path: path.to_owned(),
            inputs: inputs.iter().map(|input| input.to_path_buf()).collect(),
            _lock: lock,
        })
    }

    /// The folder's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Refuses a folder that holds anything.
    ///
    /// # Errors
    /// It does, or cannot be read.
    pub fn check_empty(&self) -> Result<(), OutputError> {
        let mut names = self.names()?;
        if names.is_empty() {
            return Ok(());
        }
        let more = names.len().saturating_sub(SHOWN);
        names.truncate(SHOWN);
        let names = match more {
            0 => names.join(", "),
            _ => format!("{} and {more} more", names.join(", ")),
        };
        Err(OutputError::NotEmpty {
            folder: self.path.clone(),
            names,
        })
    }

    /// Makes room for what is written: removes the files with these names, and the logs of a run.
    /// A folder that holds a run is made empty of all that runs write. Other files stay.
    ///
    /// # Errors
    /// One of them is an input, weights that stay would be read together with what is written, or a file cannot be removed.
    pub fn clear(&self, writes: &[&[&str]]) -> Result<(), OutputError> {
        let names = self.names()?;
        let held_run = names.iter().any(|name| name == "run.json");
        let all = [RUN, ADAPTER, OWN, MODEL];
        let lists = if held_run { &all[..] } else { writes };
        let goes = |name: &str| lists.iter().any(|list| list.contains(&name));
        let (old, kept): (Vec<_>, Vec<_>) = names.into_iter().partition(|name| goes(name));
        let read = |name: &&String| WEIGHTS.iter().any(|end| name.ends_with(end));
        if let Some(name) = kept.iter().find(read) {
            return Err(OutputError::Foreign {
                folder: self.path.clone(),
                name: name.clone(),
            });
        }
        let old: Vec<PathBuf> = old.iter().map(|name| self.path.join(name)).collect();
        let inputs: Vec<&Path> = self.inputs.iter().map(PathBuf::as_path).collect();
        for path in &old {
            check_not_read(path, path, &inputs)?;
        }
        for path in old {
            fs::remove_file(&path).map_err(OutputError::io(&path, "replace it"))?;
        }
        if held_run {
            self.clear_logs()?;
        }
        Ok(())
    }

    /// Removes the event files of earlier runs.
    fn clear_logs(&self) -> Result<(), OutputError> {
        let folder = self.path.join("tensorboard");
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(OutputError::io(&folder, "read it")(error)),
        };
        for entry in entries {
            let path = entry.map_err(OutputError::io(&folder, "read it"))?.path();
            if crate::log::TensorBoard::wrote(&path) {
                fs::remove_file(&path).map_err(OutputError::io(&path, "replace it"))?;
            }
        }
        Ok(())
    }

    /// The names of what it holds, in order, but for what locks and writers leave.
    fn names(&self) -> Result<Vec<String>, OutputError> {
        let read = || -> io::Result<Vec<String>> {
            let mut names = Vec::new();
            for entry in fs::read_dir(&self.path)? {
                let name = entry?.file_name().to_string_lossy().into_owned();
                if !Lock::is(&name) && !store::is_partial(&name) {
                    names.push(name);
                }
            }
            names.sort_unstable();
            Ok(names)
        };
        read().map_err(OutputError::io(&self.path, "read it"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder `out` with these files, each of which says its name.
    fn scene(names: &[&str]) -> (tempfile::TempDir, PathBuf) {
        let scene = tempfile::tempdir().unwrap();
        let out = scene.path().join("out");
        fs::create_dir_all(&out).unwrap();
        for name in names {
            fs::create_dir_all(out.join(name).parent().unwrap()).unwrap();
            fs::write(out.join(name), name).unwrap();
        }
        (scene, out)
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }

    #[test]
    fn a_folder_that_holds_something_is_refused_and_stays_as_it_was() {
        let (_scene, out) = scene(&["notes.txt", "b", "c", "d"]);
        let error = Folder::claim(&out, &[]).unwrap().check_empty().unwrap_err();
        let error = error.to_string();
        assert!(error.contains("b, c, d and 1 more"), "{error}");
        assert_eq!(names(&out), ["b", "c", "d", "notes.txt"]);
        Folder::claim(&out.join("new"), &[])
            .unwrap()
            .check_empty()
            .unwrap();
    }

    #[cfg(unix)]
    #[test]
    fn an_input_is_refused_by_any_spelling() {
        let (scene, out) = scene(&["config.json"]);
        let link = scene.path().join("link");
        std::os::unix::fs::symlink(&out, &link).unwrap();
        for spelled in [&out, &link, &out.join("."), &out.join("../out")] {
            for inputs in [&out, &link] {
                let error = Folder::claim(spelled, &[inputs]).unwrap_err();
                assert!(matches!(error, OutputError::Input { .. }), "{error}");
            }
        }
        assert_eq!(names(&out), ["config.json"]);
    }

    #[test]
    fn only_what_is_written_makes_room() {
        let (_scene, out) = scene(&["notes.txt", "adapter_config.json", "config.json"]);
        Folder::claim(&out, &[]).unwrap().clear(&[ADAPTER]).unwrap();
        assert_eq!(names(&out), ["config.json", "notes.txt"]);

        // A run was made in it, so all that runs write is of a run.
        let (_scene, out) = scene(&[
            "notes.txt",
            "run.json",
            "model.safetensors",
            "tensorboard/events.out.tfevents.1.2.ailora",
            "tensorboard/events.out.tfevents.of-another",
        ]);
        Folder::claim(&out, &[]).unwrap().clear(&[ADAPTER]).unwrap();
        assert_eq!(names(&out), ["notes.txt", "tensorboard"]);
        let logs = names(&out.join("tensorboard"));
        assert_eq!(logs, ["events.out.tfevents.of-another"]);

        // What is read stays, whatever its name.
        let (_scene, out) = scene(&["vocab.txt", "config.json"]);
        let folder = Folder::claim(&out, &[&out.join("vocab.txt")]).unwrap();
        let error = folder.clear(&[MODEL]).unwrap_err();
        drop(folder);
        assert!(matches!(error, OutputError::Input { .. }), "{error}");
        assert_eq!(names(&out), ["config.json", "vocab.txt"]);

        let (_scene, out) = scene(&["config.json", "pytorch_model.bin"]);
        let error = Folder::claim(&out, &[]).unwrap().clear(&[MODEL]);
        let error = error.unwrap_err().to_string();
        assert!(error.contains("holds pytorch_model.bin"), "{error}");
        assert_eq!(names(&out), ["config.json", "pytorch_model.bin"]);
    }
}
