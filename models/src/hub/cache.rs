//! Hugging Face's cache: `models--ORGANISATION--NAME/` has `refs/main`, which names a commit,
//! `snapshots/COMMIT/`, the files of that commit, and `blobs/`, what they link to.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use tempfile::Builder;

use super::client::Download;
use crate::weights::is_file_name;

/// A model's folder in the cache.
#[derive(Debug)]
pub(super) struct Repository(PathBuf);

/// The token that `hf auth login` left beside the cache.
pub(super) fn token(cache: &Path) -> Option<String> {
    let text = fs::read_to_string(cache.parent()?.join("token")).ok()?;
    let token = text.trim();
    (!token.is_empty()).then(|| token.to_owned())
}

impl Repository {
    /// The folder of a model in a cache.
    pub fn new(cache: &Path, model: &str) -> Self {
        Self(cache.join(format!("models--{}", model.replace('/', "--"))))
    }

    /// The folder of the newest commit's files.
    pub fn snapshot(&self) -> Option<PathBuf> {
        let commit = fs::read_to_string(self.0.join("refs/main")).ok()?;
        let commit = commit.trim();
        is_file_name(commit).then(|| self.0.join("snapshots").join(commit))
    }

    /// Keeps a file of a commit, all of it or nothing. Returns its path.
    ///
    /// # Errors
    /// It breaks off, is damaged, or cannot be written.
    pub fn store(&self, commit: &str, name: &str, file: Download) -> Result<PathBuf, String> {
        let blobs = self.0.join("blobs");
        let blob = blobs.join(&file.etag);
        let snapshot = self.0.join("snapshots").join(commit);
        let path = snapshot.join(name);
        for folder in [&blobs, &snapshot] {
            fs::create_dir_all(folder).map_err(text(folder))?;
        }
        let known = fs::metadata(&blob).is_ok_and(|found| found.len() == file.len);
        if !known {
            let mut part = partial().tempfile_in(&blobs).map_err(text(&blobs))?;
            file.write(name, &mut part)?;
            part.as_file().sync_all().map_err(text(&blob))?;
            part.persist(&blob)
                .map_err(|error| text(&blob)(error.error))?;
        }
        link(&blob, &path).map_err(text(&path))?;
        Ok(path)
    }

    /// Makes a commit the newest, as all of its files are there.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn finish(&self, commit: &str) -> Result<(), String> {
        let path = self.0.join("refs/main");
        ailora_runtime::store::write_atomically(&path, commit.as_bytes())
            .map_err(|error| error.to_string())
    }
}

fn text(path: &Path) -> impl FnOnce(io::Error) -> String {
    let path = path.to_owned();
    move |error| format!("cannot write {}: {error}", path.display())
}

/// A file that is being written, with the mode that the umask leaves.
fn partial() -> Builder<'static, 'static> {
    let mut builder = Builder::new();
    builder.prefix("incomplete-");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder
}

/// Links `path` to a blob, or copies it where there are no links.
fn link(blob: &Path, path: &Path) -> io::Result<()> {
    let name = blob.file_name().unwrap_or_default();
    let target = Path::new("../../blobs").join(name);
    if fs::read_link(path).is_ok_and(|found| found == target) {
        return Ok(());
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    #[cfg(unix)]
    if std::os::unix::fs::symlink(&target, path).is_ok() {
        return Ok(());
    }
    fs::copy(blob, path).map(drop)
}
