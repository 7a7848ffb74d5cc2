//! SHA-256 of files.

use std::{io, path::Path};

use sha2::{Digest, Sha256};

use super::Error;

/// The hash of a whole file's bytes.
///
/// # Errors
/// It cannot be read.
pub(crate) fn file(path: &Path) -> Result<String, Error> {
    let mut file = std::fs::File::open(path).map_err(Error::io(path, "open it"))?;
    let mut hash = HashWriter(Sha256::new());
    io::copy(&mut file, &mut hash).map_err(Error::io(path, "read it"))?;
    Ok(hex(&hash.0.finalize()))
}

struct HashWriter(Sha256);

impl io::Write for HashWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
