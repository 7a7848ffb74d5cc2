use std::borrow::Cow;

use serde::Deserialize;

use super::{DataError, Format, Place, Record, Sink, Source, without_end};

/// What is on the line before a highlight.
const MARK: &str = "@highlight";
/// What a sentence ends with; behind others a full stop is missing.
const ENDS: [&str; 9] = [".", "!", "?", "'", "`", "\"", "\u{2019}", "\u{201d}", ")"];

/// A news story with its highlights, a file each, as CNN and Daily Mail's are published (Hermann et al.,
/// 2015): the field `article` is the text, its lines joined by blanks; `highlights` are the lines behind the
/// first `@highlight`, a line each; `id` is the file's name.
///
/// Lines that end in no punctuation get ` .`, as in the rows that the `datasets` library makes of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Story {}

impl Format for Story {
    fn read(&self, source: &mut Source<'_>, sink: &mut dyn Sink) -> Result<(), DataError> {
        let path = source.path;
        let form = |cause: String| DataError::Form {
            path: path.to_owned(),
            expected: "a story, and highlights behind lines of `@highlight`".to_owned(),
            cause,
        };
        let (mut article, mut highlights) = (Vec::new(), Vec::new());
        let mut is_highlight = false;
        let mut lines = source.lines();
        let mut line = Vec::new();
        while lines.read(&mut line)? {
            let number = lines.number();
            let text = match std::str::from_utf8(without_end(&line)) {
                Ok(text) if !text.contains('\0') => text.trim(),
                _ => return sink.malformed(form(format!("line {number} is no UTF-8 text"))),
            };
            match text {
                "" => {}
                _ if text.starts_with(MARK) => is_highlight = true,
                _ if is_highlight => highlights.push(ended(text)),
                _ => article.push(ended(text)),
            }
            line.clear();
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let id = name.split('.').next().unwrap_or_default();
        let fields = [
            ("article", article.join(" ")),
            ("highlights", highlights.join("\n")),
            ("id", id.to_owned()),
        ];
        let fields = fields.map(|(name, text)| (Cow::Borrowed(name), text.into()));
        sink.record(Record::new(path, Place::Record(1), fields.into()))
    }
}

/// A line with its full stop.
fn ended(line: &str) -> String {
    match ENDS.iter().any(|end| line.ends_with(end)) {
        true => line.to_owned(),
        false => format!("{line} ."),
    }
}
