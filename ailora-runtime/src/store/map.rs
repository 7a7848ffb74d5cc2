//! Files that are mapped into memory.

use std::{fmt, fs::File, io, ops::Deref, sync::Arc};

use memmap2::Mmap;

/// The bytes of a file, mapped into memory: they are read when they are first looked at, and take no
/// memory but the system's cache of files. They stay when another file takes the place of this one, as
/// [`write_atomically`](super::write_atomically) does it.
#[derive(Clone)]
pub struct Map(Arc<Mmap>);

impl Map {
    /// Maps a whole file, which has to stay as it is: where it is written in place, values change, and
    /// where it is shortened, reading them kills the process.
    ///
    /// # Errors
    /// The system maps no such file.
    pub fn of(file: &File) -> io::Result<Self> {
        // SAFETY: it is read as bytes alone, and any are valid; that nobody writes to the file while it is
        // mapped is up to the user, as for every program that maps files.
        let map = unsafe { Mmap::map(file)? };
        Ok(Self(Arc::new(map)))
    }
}

impl Deref for Map {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for Map {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for Map {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Map({} bytes)", self.len())
    }
}
