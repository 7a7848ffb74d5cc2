//! SHA-256 of files and of parameters.

use std::{io, path::Path};

use ailora_runtime::store::Params;
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

/// The hash of parameters' names, shapes and values.
pub(crate) fn params(params: &Params) -> String {
    let mut hash = Sha256::new();
    for (name, array) in params {
        hash.update(format!("{name}\0{:?}\0", array.shape()));
        for value in array.floats().iter() {
            hash.update(value.to_le_bytes());
        }
    }
    hex(&hash.finalize())
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
