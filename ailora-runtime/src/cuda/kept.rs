//! Files that the cache keeps for a device, behind their checksum: one that is damaged is made again,
//! instead of given to the device.

use std::{io::ErrorKind, path::Path};

use sha2::{Digest, Sha256};

use crate::store::{StoreError, write_atomically};

/// What was kept in a file, if it is there and sound.
pub(super) fn read(path: &Path) -> Option<Vec<u8>> {
    let why = match std::fs::read(path) {
        Ok(bytes) => match opened(&bytes) {
            Some(kept) => return Some(kept.to_vec()),
            None => "its checksum does not match its contents".to_owned(),
        },
        Err(error) if error.kind() == ErrorKind::NotFound => return None,
        Err(error) => error.to_string(),
    };
    tracing::warn!(file = %path.display(), why, "unusable file of the cache, making it anew");
    None
}

/// Keeps something in a file.
///
/// # Errors
/// It cannot be written.
pub(super) fn write(path: &Path, kept: &[u8]) -> Result<(), StoreError> {
    write_atomically(path, &sealed(kept))
}

fn sealed(kept: &[u8]) -> Vec<u8> {
    [&Sha256::digest(kept)[..], kept].concat()
}

fn opened(bytes: &[u8]) -> Option<&[u8]> {
    let (checksum, kept) = bytes.split_first_chunk::<32>()?;
    let sound = !kept.is_empty() && Sha256::digest(kept)[..] == checksum[..];
    sound.then_some(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_what_was_kept_or_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        assert_eq!(read(&path), None);
        let kept: Vec<u8> = (0..=255).collect();
        write(&path, &kept).unwrap();
        assert_eq!(read(&path), Some(kept.clone()));
        let bytes = std::fs::read(&path).unwrap();
        for len in 0..bytes.len() {
            assert_eq!(opened(&bytes[..len]), None, "{len}");
        }
        for at in 0..bytes.len() {
            let mut spoilt = bytes.clone();
            spoilt[at] ^= 4;
            assert_eq!(opened(&spoilt), None, "{at}");
        }
        assert_eq!(opened(&sealed(&[])), None);
    }
}
