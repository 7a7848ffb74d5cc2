use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    path::{Path, PathBuf},
};

use super::OutputError;

/// The file that is locked, in the folder that it is about.
const NAME: &str = ".ailora.lock";

/// A folder for one process, until this is dropped or the process ends, however it ends.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    _file: File,
}

impl Lock {
    /// Takes a folder, which is there.
    ///
    /// # Errors
    /// Another process has it, or it cannot be written.
    pub fn take(folder: &Path) -> Result<Self, OutputError> {
        let path = folder.join(NAME);
        loop {
            let mut options = OpenOptions::new();
            let file = options.write(true).create(true).truncate(false).open(&path);
            let file = file.map_err(OutputError::io(folder, "write to it"))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    return Err(OutputError::InUse(folder.to_owned()));
                }
                // A file system without locks: nobody is kept out, and nobody is kept from working.
                Err(TryLockError::Error(error)) => {
                    let folder = folder.display();
                    tracing::warn!("{folder} cannot be locked against other runs: {error}");
                }
            }
            // Whoever had it last may have removed the file after it was opened here.
            if is_at(&file, &path).map_err(OutputError::io(&path, "look at it"))? {
                return Ok(Self { path, _file: file });
            }
        }
    }

    /// Whether this is the name of the file that is locked.
    pub(super) fn is(name: &str) -> bool {
        name == NAME
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // While it is still locked, so that nobody's but this one is removed.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let of = |meta: fs::Metadata| (meta.dev(), meta.ino());
    let opened = of(file.metadata()?);
    match fs::metadata(path) {
        Ok(meta) => Ok(of(meta) == opened),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(not(unix))]
fn is_at(_: &File, _: &Path) -> io::Result<bool> {
    // A file that is open cannot be removed.
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_has_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let lock = Lock::take(folder.path()).unwrap();
        let error = Lock::take(folder.path()).unwrap_err().to_string();
        assert!(error.contains("is in use"), "{error}");
        drop(lock);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        // What a killed process leaves holds nobody up.
        fs::write(folder.path().join(NAME), "").unwrap();
        drop(Lock::take(folder.path()).unwrap());
    }

    #[test]
    fn threads_that_want_it_have_it_one_after_the_other() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        let folder = tempfile::tempdir().unwrap();
        let (inside, had) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..2000 {
                        if let Ok(_lock) = Lock::take(folder.path()) {
                            assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                            had.fetch_add(1, Ordering::SeqCst);
                            inside.fetch_sub(1, Ordering::SeqCst);
                        }
                    }
                });
            }
        });
        assert!(had.into_inner() > 0);
    }
}
