use std::path::Path;

use serde::Deserialize;

use super::{Csv, DataError, Format, Json, JsonLines, Parquet, Plain, Sink, Source, Story, Tsv};

/// The endings of names that say a format, before `.gz` or `.zst`.
pub const ENDINGS: [&str; 8] = [
    "csv", "tsv", "json", "jsonl", "ndjson", "parquet", "txt", "story",
];

/// Whichever format a file's name says. A `.json` file may hold an object a line, as many do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Auto {}

impl Auto {
    /// The ending of a file's name that says its format, if there is one.
    pub fn ending(path: &Path) -> Option<&'static str> {
        let mut name = path.file_name()?.to_str()?.to_ascii_lowercase();
        for compressed in [".gz", ".zst"] {
            name.truncate(name.strip_suffix(compressed).unwrap_or(&name).len());
        }
        let (_, ending) = name.rsplit_once('.')?;
        ENDINGS.into_iter().find(|known| *known == ending)
    }
}

impl Format for Auto {
    fn read(&self, source: &mut Source<'_>, sink: &mut dyn Sink) -> Result<(), DataError> {
        let format: &dyn Format = match Self::ending(source.path) {
            Some("csv") => &Csv::default(),
            Some("tsv") => &Tsv::default(),
            Some("json") if source.first_byte()? == Some(b'{') => &JsonLines::default(),
            Some("json") => &Json::default(),
            Some("parquet") => &Parquet::default(),
            Some("txt") => &Plain::default(),
            Some("story") => &Story::default(),
            Some(_) => &JsonLines::default(),
            None => {
                return Err(DataError::UnknownFormat {
                    path: source.path.to_owned(),
                    known: ENDINGS.to_vec(),
                });
            }
        };
        format.read(source, sink)
    }
}
