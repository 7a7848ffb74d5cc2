//! Marks in what a template is given and in what it writes: characters that no text has (Unicode's
//! noncharacters), which are taken out again.

use std::ops::Range;

use serde_json::Value;

/// Begins what the model writes.
pub(super) const BEGIN: char = '\u{fdd0}';
/// Ends it.
pub(super) const END: char = '\u{fdd1}';
/// Is at the end of a content.
pub(super) const PROBE: char = '\u{fdd2}';
/// Begins the number of a control token that a content spells out.
const OPEN: char = '\u{fdd3}';
/// Ends the number.
const CLOSE: char = '\u{fdd4}';

/// A conversation as a template writes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// The text.
    pub text: String,
    /// The bytes of what is learned, in their order.
    pub learned: Vec<Range<usize>>,
    /// The bytes in which control tokens are spelled out and not meant, in their order.
    pub literal: Vec<Range<usize>>,
}

/// What a template wrote, with the marks taken out.
#[derive(Clone, Debug, Default)]
pub(super) struct Marked {
    pub text: String,
    /// The bytes between [`BEGIN`] and [`END`].
    pub generated: Vec<Range<usize>>,
    /// Where a [`PROBE`] was.
    pub probes: Vec<usize>,
    /// The bytes of control tokens that contents spell out.
    pub literal: Vec<Range<usize>>,
}

impl Marked {
    /// Takes the marks out of `raw`; `controls` are what is numbered.
    pub fn read(raw: &str, controls: &[String]) -> Self {
        let mut marked = Self::default();
        let mut begun = Vec::new();
        let mut rest = raw;
        while let Some(at) = rest.find([BEGIN, END, PROBE, OPEN]) {
            marked.text += &rest[..at];
            let here = marked.text.len();
            let mut letters = rest[at..].chars();
            let mark = letters.next();
            rest = letters.as_str();
            match mark {
                Some(BEGIN) => begun.push(here),
                Some(END) => {
                    let start = begun.pop();
                    // What is generated inside of what is generated is that.
                    if begun.is_empty()
                        && let Some(start) = start
                    {
                        marked.generated.push(start..here);
                    }
                }
                Some(PROBE) => marked.probes.push(here),
                _ => {
                    let (number, behind) = rest.split_once(CLOSE).unwrap_or((rest, ""));
                    let control = number.parse().ok().and_then(|n: usize| controls.get(n));
                    marked.text += control.map_or("", String::as_str);
                    marked.literal.push(here..marked.text.len());
                    rest = behind;
                }
            }
        }
        marked.text += rest;
        marked
    }
}

/// Whether a value has one of the marks in it.
pub(super) fn has_marks(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains([BEGIN, END, PROBE, OPEN, CLOSE]),
        Value::Array(list) => list.iter().any(has_marks),
        Value::Object(fields) => fields.values().any(has_marks),
        _ => false,
    }
}

/// Puts numbers in the place of the control tokens that the texts of a value spell out.
pub(super) fn number(value: &mut Value, controls: &[String]) {
    match value {
        Value::String(text) => {
            if let Some(numbered) = numbered(text, controls) {
                *text = numbered;
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|value| number(value, controls)),
        Value::Object(fields) => fields
            .values_mut()
            .for_each(|value| number(value, controls)),
        _ => {}
    }
}

fn numbered(text: &str, controls: &[String]) -> Option<String> {
    let mut out = String::new();
    let mut copied = 0;
    let mut at = 0;
    while at < text.len() {
        match control_at(&text[at..], controls) {
            Some(number) => {
                out += &text[copied..at];
                out += &format!("{OPEN}{number}{CLOSE}");
                at += controls[number].len();
                copied = at;
            }
            None => at += text[at..].chars().next().map_or(1, char::len_utf8),
        }
    }
    (copied > 0).then(|| out + &text[copied..])
}

/// The longest control token that a text begins with.
pub(crate) fn control_at(text: &str, controls: &[String]) -> Option<usize> {
    let begun = controls
        .iter()
        .enumerate()
        .filter(|(_, control)| !control.is_empty() && text.starts_with(control.as_str()));
    begun
        .max_by_key(|(_, control)| control.len())
        .map(|(number, _)| number)
}
