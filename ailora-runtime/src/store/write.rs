//! Files that are written whole or not at all.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

use tempfile::{Builder, NamedTempFile};

use super::StoreError;

/// How the names of files that are still being written begin and end.
const PARTIAL: [&str; 2] = [".ailora-", ".part"];
/// As many symbolic links, one behind the other, are followed as Linux follows.
const LINKS: usize = 40;

/// What becomes of a regular file that is where one is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Existing {
    Replaced,
    Kept,
}

/// Writes a file whole or not at all: beside its place first, then moved there. Symbolic links are
/// followed, and devices, FIFOs and open files of a process, such as `/dev/stdout`, are written to.
/// A new file has the mode that the umask leaves; one that is replaced keeps its mode.
///
/// # Errors
/// The folder cannot be written, or the disk is full; a file that was there stays as it was.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    write(path, bytes, Existing::Replaced)
}

/// Writes a file as [`write_atomically`], where there is none.
///
/// # Errors
/// As [`write_atomically`], and there is a regular file already.
pub fn write_new(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    write(path, bytes, Existing::Kept)
}

/// Whether a path names something that is written to, never replaced: a device, a FIFO, a socket, or
/// an open file of a process.
pub fn is_stream(path: &Path) -> bool {
    let path = behind_links(path);
    let special = |meta: fs::Metadata| !meta.is_file() && !meta.is_dir();
    is_open_file(&path) || fs::metadata(&path).is_ok_and(special)
}

/// Removes what writers that were killed left in a folder. No writer may be at work there.
pub fn remove_partial(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if is_partial(&entry.file_name().to_string_lossy()) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Whether this is the name of a file that is still being written, or was when its writer was killed.
pub fn is_partial(name: &str) -> bool {
    let [start, end] = PARTIAL;
    name.starts_with(start) && name.ends_with(end)
}

fn write(path: &Path, bytes: &[u8], existing: Existing) -> Result<(), StoreError> {
    let target = behind_links(path);
    if is_stream(&target) {
        let mut stream = OpenOptions::new()
            .append(true)
            .open(&target)
            .map_err(StoreError::io(path, "open it"))?;
        return stream
            .write_all(bytes)
            .map_err(StoreError::io(path, "write to it"));
    }
    if target.is_symlink() {
        let endless = io::Error::other("too many symbolic links");
        return Err(StoreError::io(path, "find where it leads")(endless));
    }
    let folder = folder(&target);
    fs::create_dir_all(folder).map_err(StoreError::io(folder, "create the folder"))?;
    let mut file = beside(folder).map_err(StoreError::io(path, "create a file beside it"))?;
    file.write_all(bytes)
        .map_err(StoreError::io(path, "write it"))?;
    if existing == Existing::Replaced {
        keep_mode(&target, file.as_file());
    }
    file.as_file()
        .sync_all()
        .map_err(StoreError::io(path, "write it to disk"))?;
    match existing {
        Existing::Replaced => file.persist(&target),
        Existing::Kept => file.persist_noclobber(&target),
    }
    .map_err(|error| StoreError::io(path, "put it in its place")(error.error))?;
    Ok(())
}

/// A new file in a folder, with the mode that any program's new file has.
fn beside(folder: &Path) -> io::Result<NamedTempFile> {
    let mut builder = Builder::new();
    builder.prefix(PARTIAL[0]).suffix(PARTIAL[1]);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // The umask takes its part of it.
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    builder.tempfile_in(folder)
}

/// Gives a file the mode of the one that it is to replace. Where that is not to be had, it keeps the
/// mode of a new file.
fn keep_mode(replaced: &Path, file: &File) {
    if let Ok(meta) = fs::metadata(replaced) {
        let _ = file.set_permissions(meta.permissions());
    }
}

/// The folder of a path.
fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Where the symbolic links of a path's last part lead, whether or not something is there.
fn behind_links(path: &Path) -> PathBuf {
    let mut path = path.to_owned();
    for _ in 0..LINKS {
        // What these links say is no path: `pipe:[4711]`.
        if is_open_file(&path) {
            break;
        }
        match fs::read_link(&path) {
            Ok(target) => path = folder(&path).join(target),
            Err(_) => break,
        }
    }
    path
}

/// Whether a path is one of those by which a process finds its own open files and devices.
fn is_open_file(path: &Path) -> bool {
    let folder = folder(path).canonicalize();
    cfg!(unix)
        && folder.is_ok_and(|folder| folder == Path::new("/dev") || folder.starts_with("/proc"))
}

#[cfg(all(test, unix))]
mod tests {
    use std::{
        io::Read,
        os::unix::fs::{PermissionsExt, symlink},
        process::Command,
        thread,
    };

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn modes_are_those_of_any_new_file_or_of_the_replaced_one() {
        let folder = tempfile::tempdir().unwrap();
        let [plain, written] = ["plain", "a/b/written"].map(|name| folder.path().join(name));
        fs::write(&plain, "").unwrap();
        fs::create_dir(folder.path().join("made")).unwrap();
        write_atomically(&written, b"1").unwrap();
        assert_eq!(mode(&written), mode(&plain));
        assert_ne!(mode(&written) & 0o044, 0, "the tests' umask hides it");
        let made = folder.path().join("made");
        assert_eq!(mode(&folder.path().join("a/b")), mode(&made));
        fs::set_permissions(&written, fs::Permissions::from_mode(0o640)).unwrap();
        write_atomically(&written, b"2").unwrap();
        assert_eq!(
            (mode(&written), fs::read(&written).unwrap()),
            (0o640, b"2".to_vec())
        );
    }

    #[test]
    fn links_stay_and_their_ends_are_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir(path("there")).unwrap();
        symlink("there/file", path("link")).unwrap();
        symlink("link", path("first")).unwrap();
        for text in ["one", "two"] {
            write_atomically(&path("first"), text.as_bytes()).unwrap();
            assert!(path("link").is_symlink() && path("first").is_symlink());
            assert_eq!(fs::read_to_string(path("there/file")).unwrap(), text);
        }
        let names: Vec<_> = fs::read_dir(path("there")).unwrap().collect();
        assert_eq!(names.len(), 1, "something was left beside the file");
        symlink("endless", path("endless")).unwrap();
        let error = write_atomically(&path("endless"), b"").unwrap_err();
        assert!(
            error.to_string().contains("too many symbolic links"),
            "{error}"
        );
        assert!(path("endless").is_symlink());
    }

    #[test]
    fn fifos_and_devices_are_written_to() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("fifo");
        assert!(
            Command::new("mkfifo")
                .arg(&fifo)
                .status()
                .unwrap()
                .success()
        );
        let reader = thread::spawn({
            let fifo = fifo.clone();
            move || {
                let mut text = String::new();
                File::open(fifo).unwrap().read_to_string(&mut text).unwrap();
                text
            }
        });
        write_new(&fifo, b"through").unwrap();
        assert_eq!(reader.join().unwrap(), "through");
        assert!(is_stream(&fifo) && is_stream(Path::new("/dev/null")));
        assert!(is_stream(Path::new("/dev/stdout")));
        write_new(Path::new("/dev/null"), b"away").unwrap();
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
    }

    #[test]
    fn a_file_that_is_there_is_kept_where_a_new_one_is_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        write_new(&path, b"first").unwrap();
        let error = write_new(&path, b"second").unwrap_err().to_string();
        assert!(
            error.contains("file: cannot put it in its place"),
            "{error}"
        );
        assert_eq!(fs::read(&path).unwrap(), b"first");
        fs::write(folder.path().join(".ailora-x.part"), "").unwrap();
        fs::write(folder.path().join(".mine.part"), "").unwrap();
        remove_partial(folder.path()).unwrap();
        let names = fs::read_dir(folder.path()).unwrap();
        let mut names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, [".mine.part", "file"]);
    }
}
