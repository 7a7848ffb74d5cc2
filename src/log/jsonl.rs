use std::{
    fs::{File, OpenOptions},
    io::{self, BufRead, BufReader, Write},
    path::Path,
};

use serde::Serialize;

/// A file of one JSON object a line, flushed line by line.
#[derive(Debug)]
pub struct JsonLines {
    file: File,
}

impl JsonLines {
    /// Opens a log. Rows whose `step` is above `after` are dropped: a resumed run writes them again.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub fn open(path: &Path, after: u64) -> io::Result<Self> {
        let mut kept = Vec::new();
        match File::open(path) {
            Ok(file) => {
                for line in BufReader::new(file).split(b'\n') {
                    let line = line?;
                    let row: Option<serde_json::Value> = serde_json::from_slice(&line).ok();
                    let step = row.and_then(|row| row.get("step")?.as_u64());
                    // A line that a kill cut short does not parse.
                    if step.is_some_and(|step| step <= after) {
                        kept.extend(line);
                        kept.push(b'\n');
                    }
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        ailora_runtime::store::write_atomically(path, &kept).map_err(io::Error::other)?;
        let file = OpenOptions::new().append(true).open(path)?;
        Ok(Self { file })
    }

    /// Appends a row.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&mut self, row: &impl Serialize) -> io::Result<()> {
        let mut line = serde_json::to_vec(row)?;
        line.push(b'\n');
        self.file.write_all(&line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_resumed_log_has_every_step_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("train.jsonl");
        let mut log = JsonLines::open(&path, 0).unwrap();
        for step in 1..=5 {
            log.write(&json!({"step": step, "loss": 0.5})).unwrap();
        }
        drop(log);
        let mut torn = OpenOptions::new().append(true).open(&path).unwrap();
        torn.write_all(br#"{"step": 6, "lo"#).unwrap();
        let mut log = JsonLines::open(&path, 3).unwrap();
        log.write(&json!({"step": 4, "loss": 0.25})).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let steps: Vec<_> = text
            .lines()
            .map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap()["step"].clone())
            .collect();
        assert_eq!(steps, [1, 2, 3, 4]);
    }
}
