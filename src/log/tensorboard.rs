use std::{
    fs::{self, File},
    io::{self, Write},
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// How the names of event files begin, and how those of this crate end.
const PREFIX: &str = "events.out.tfevents.";
const SUFFIX: &str = ".ailora";

/// A TensorBoard event file of scalars.
///
/// A record is its length, a checksum of that, a protocol-buffer `Event` and a checksum of that, all
/// little-endian, with the masked CRC-32C of TFRecord files. The two messages that scalars need are
/// small enough to be written out here.
#[derive(Debug)]
pub struct TensorBoard {
    file: File,
}

impl TensorBoard {
    /// Starts a new event file in `folder`. TensorBoard reads a folder's files in the order of their
    /// names and lets a later file replace what an earlier one said of the same and later steps.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn create(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let now = since_epoch();
        let (seconds, nanos) = (now.as_secs(), now.subsec_nanos());
        let name = format!("{PREFIX}{seconds:010}.{nanos:09}{SUFFIX}");
        let mut log = Self {
            file: File::create(folder.join(name))?,
        };
        log.record(&bytes_field(3, b"brain.Event:2"))?;
        Ok(log)
    }

    /// Whether a file, by its name, is one that this crate wrote.
    pub(crate) fn wrote(path: &Path) -> bool {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(PREFIX) && name.ends_with(SUFFIX)
    }

    /// Adds a value of the curve `tag` at `step`.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn scalar(&mut self, tag: &str, step: u64, value: f64) -> io::Result<()> {
        // Summary.Value: tag = 1, simple_value = 2; Summary: value = 1; Event: step = 2, summary = 5.
        let mut entry = bytes_field(1, tag.as_bytes());
        entry.push(2 << 3 | 5);
        entry.extend((value as f32).to_le_bytes());
        let mut event = vec![2 << 3];
        varint(&mut event, step);
        event.extend(bytes_field(5, &bytes_field(1, &entry)));
        self.record(&event)
    }

    fn record(&mut self, event: &[u8]) -> io::Result<()> {
        // Event: wall_time = 1, a double.
        let mut message = vec![1 << 3 | 1];
        message.extend(since_epoch().as_secs_f64().to_le_bytes());
        message.extend(event);
        let length = (message.len() as u64).to_le_bytes();
        let mut record = length.to_vec();
        record.extend(masked_crc(&length).to_le_bytes());
        record.extend(&message);
        record.extend(masked_crc(&message).to_le_bytes());
        self.file.write_all(&record)
    }
}

fn since_epoch() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

fn bytes_field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut field = vec![number << 3 | 2];
    varint(&mut field, bytes.len() as u64);
    field.extend(bytes);
    field
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
        .rotate_right(15)
        .wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_framed_as_tfrecord() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = TensorBoard::create(folder.path()).unwrap();
        log.scalar("loss", 300, 0.5).unwrap();
        let path = fs::read_dir(folder.path())
            .unwrap()
            .next()
            .unwrap()
            .unwrap()
            .path();
        let mut rest = &fs::read(path).unwrap()[..];
        let mut messages = Vec::new();
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            assert_eq!(rest[8..12], masked_crc(&rest[..8]).to_le_bytes());
            let message = &rest[12..12 + length];
            assert_eq!(
                rest[12 + length..16 + length],
                masked_crc(message).to_le_bytes()
            );
            messages.push(message.to_vec());
            rest = &rest[16 + length..];
        }
        assert_eq!(messages.len(), 2);
        // The step 300 as a varint, then the summary with tag and value.
        let expected = [
            &[0x10, 0xac, 0x02, 0x2a, 13, 0x0a, 11, 0x0a, 4][..],
            b"loss",
            &[0x15],
            &0.5_f32.to_le_bytes(),
        ]
        .concat();
        assert_eq!(messages[1][9..], expected);
    }
}
