//! What is done with every field of the files that other programs write.
//!
//! Each kind of file has one [`Table`] of the fields that are known. A field is *applied*, or
//! *known to change nothing here*, or *refused* unless it has a value that asks for nothing. What
//! no table lists is refused where it can change the arithmetic, and a [`Note`] elsewhere, which the
//! command prints once and refuses under `--strict`. `docs/compatibility.md` is made of these tables.

pub mod compatibility;
pub mod json;
pub mod wall;

use std::{
    fmt,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value};
use thiserror::Error;

/// What becomes of a field.
#[derive(Clone, Copy, Debug)]
pub enum Meaning {
    /// It is read, and says this.
    Applied(&'static str),
    /// It changes nothing that is computed here, because of this.
    Inert(&'static str),
    /// It is refused unless it has one of these values.
    Only(Values, &'static str),
}

/// The values with which a field asks for nothing that is not done.
#[derive(Clone, Copy, Debug)]
pub enum Values {
    /// `null`, `false`, and what is empty.
    Unset,
    /// What is unset, and one of these, as JSON writes them.
    OneOf(&'static [&'static str]),
}

/// A field that is known.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// What becomes of it.
    pub meaning: Meaning,
}

/// A field that is read; `says` is what it says, for the documentation.
pub const fn applied(name: &'static str, says: &'static str) -> Field {
    let meaning = Meaning::Applied(says);
    Field { name, meaning }
}

/// A field that changes nothing here; `why`, for the documentation.
pub const fn inert(name: &'static str, why: &'static str) -> Field {
    let meaning = Meaning::Inert(why);
    Field { name, meaning }
}

/// A field that is refused unless it is unset; `advice` ends the error.
pub const fn unset(name: &'static str, advice: &'static str) -> Field {
    let meaning = Meaning::Only(Values::Unset, advice);
    Field { name, meaning }
}

/// A field that is refused unless it is unset or has one of these values, as JSON writes them.
pub const fn only(
    name: &'static str,
    values: &'static [&'static str],
    advice: &'static str,
) -> Field {
    let meaning = Meaning::Only(Values::OneOf(values), advice);
    Field { name, meaning }
}

/// What becomes of a field that no table has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unknown {
    /// It may change the arithmetic: an error, unless it is `null` or `false`.
    Refused,
    /// Real files are full of harmless ones: a note.
    Noted,
}

/// The fields of a kind of file.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    /// What the file is called in the documentation.
    pub file: &'static str,
    /// The fields, each once; several lists, as families share some.
    pub fields: &'static [&'static [Field]],
    /// What becomes of others.
    pub unknown: Unknown,
}

/// A field that asks for something that is not done, or that nobody knows.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{}: `{field}` is {found}; {expected}", path.display())]
pub struct Refused {
    /// The file.
    pub path: PathBuf,
    /// The field.
    pub field: String,
    /// Its value, shortened.
    pub found: String,
    /// What would be accepted, and what to do.
    pub expected: String,
}

/// Something of a file that is not used, which whoever loads it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The file.
    pub path: PathBuf,
    /// What is not used.
    pub text: String,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.text)
    }
}

/// What is not used of a model's folder, where all of it has to be.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{}; --strict refuses what is not used", .0.iter().map(Note::to_string).collect::<Vec<_>>().join("; "))]
pub struct Unused(pub Vec<Note>);

impl Table {
    /// The field of this name, if it is known.
    pub fn get(&self, name: &str) -> Option<&'static Field> {
        let mut fields = self.fields.iter().copied().flatten();
        fields.find(|field| field.name == name)
    }

    /// Checks an object of a file at `path`: every field is known and asks for nothing that is not
    /// done. Returns a note if fields are unknown and these are noted.
    ///
    /// # Errors
    /// The first field that is refused.
    pub fn check(&self, path: &Path, object: &Map<String, Value>) -> Result<Option<Note>, Refused> {
        let mut unknown = Vec::new();
        for (name, value) in object {
            let refused = |expected: String| Refused {
                path: path.to_owned(),
                field: name.clone(),
                found: shortened(value),
                expected,
            };
            match self.get(name).map(|field| field.meaning) {
                Some(Meaning::Applied(_) | Meaning::Inert(_)) => {}
                Some(Meaning::Only(values, advice)) => {
                    if !values.accept(value) {
                        return Err(refused(format!("expected {values}: {advice}")));
                    }
                }
                None if Values::Unset.accept(value) => {}
                None if self.unknown == Unknown::Noted => unknown.push(format!("`{name}`")),
                None => {
                    return Err(refused(
                        "this field is not known, and what it changes would be lost: remove it \
                         if it changes nothing"
                            .into(),
                    ));
                }
            }
        }
        Ok((!unknown.is_empty()).then(|| Note {
            path: path.to_owned(),
            text: format!(
                "fields that are not known are not used: {}",
                unknown.join(", ")
            ),
        }))
    }

    /// The table in Markdown, a row a field.
    pub fn markdown(&self) -> String {
        let fields: Vec<Field> = self.fields.iter().copied().flatten().copied().collect();
        let other = match self.unknown {
            Unknown::Refused => "| any other | refused, unless `null` or `false` |\n",
            Unknown::Noted => "| any other | reported once, refused under `--strict` |\n",
        };
        rows(&fields) + other
    }
}

/// Fields in Markdown, a row each.
pub(crate) fn rows(fields: &[Field]) -> String {
    let mut text = String::from("| field | what ailora does |\n| --- | --- |\n");
    for field in fields {
        let meaning = match field.meaning {
            Meaning::Applied("") => "applied".into(),
            Meaning::Applied(says) => format!("applied: {says}"),
            Meaning::Inert(why) => format!("changes nothing here: {why}"),
            Meaning::Only(values, advice) => format!("refused unless {values}: {advice}"),
        };
        text += &format!("| `{}` | {} |\n", field.name, meaning.replace('|', "\\|"));
    }
    text
}

impl Values {
    /// Whether a field with this value asks for nothing that is not done.
    pub fn accept(self, value: &Value) -> bool {
        let unset = match value {
            Value::Null => true,
            Value::Bool(set) => !set,
            Value::String(text) => text.is_empty(),
            Value::Array(items) => items.is_empty(),
            Value::Object(fields) => fields.is_empty(),
            Value::Number(_) => false,
        };
        unset
            || match self {
                Self::Unset => false,
                Self::OneOf(values) => {
                    let same =
                        |text: &&str| serde_json::from_str(text).ok().as_ref() == Some(value);
                    values.iter().any(same)
                }
            }
    }
}

impl fmt::Display for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unset => f.write_str("it is not set"),
            Self::OneOf(values) => f.write_str(&values.join(" or ")),
        }
    }
}

/// A text as an error shows it: what other libraries say may quote all of a file.
pub fn brief(text: impl fmt::Display) -> String {
    const START: usize = 300;
    const END: usize = 100;
    let text = text.to_string();
    if text.len() <= 2 * (START + END) {
        return text;
    }
    let start = &text[..text.floor_char_boundary(START)];
    let end = &text[text.ceil_char_boundary(text.len() - END)..];
    format!("{start} ... {end}")
}

/// A value as an error shows it: on one line, and no longer than one.
pub fn shortened(value: &Value) -> String {
    const SHOWN: usize = 60;
    let text = value.to_string();
    match text.char_indices().nth(SHOWN) {
        None => text,
        Some((end, _)) => format!("{}...", &text[..end]),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const FIELDS: &[Field] = &[
        applied("rank", "how many"),
        inert("author", "a name"),
        unset("doubled", "run it twice"),
        only("form", &["\"round\"", "3"], "make it round"),
    ];
    const TABLE: Table = Table {
        file: "things.json",
        fields: &[FIELDS],
        unknown: Unknown::Refused,
    };

    fn check(table: Table, value: Value) -> Result<Option<Note>, Refused> {
        let Value::Object(object) = value else {
            panic!("not an object")
        };
        table.check(Path::new("things.json"), &object)
    }

    #[test]
    fn a_field_is_applied_inert_or_refused_by_name() {
        for value in [
            json!({"rank": 4, "author": [1], "doubled": false, "form": "round"}),
            json!({"doubled": null, "form": 3}),
            json!({"doubled": {}, "form": null}),
            json!({"other": null, "another": false}),
        ] {
            assert_eq!(check(TABLE, value), Ok(None));
        }
        for (value, field, expected) in [
            (json!({"doubled": true}), "doubled", "run it twice"),
            (json!({"doubled": 0}), "doubled", "run it twice"),
            (
                json!({"form": "square"}),
                "form",
                "\"round\" or 3: make it round",
            ),
            (json!({"other": 0}), "other", "not known"),
        ] {
            let refused = check(TABLE, value).unwrap_err();
            assert_eq!(refused.field, field);
            assert!(refused.to_string().contains(expected), "{refused}");
        }
    }

    #[test]
    fn unknown_fields_are_noted_once_where_they_are_harmless() {
        let table = Table {
            unknown: Unknown::Noted,
            ..TABLE
        };
        let note = check(table, json!({"x": 1, "rank": 2, "y": [0]})).unwrap();
        assert_eq!(
            note.unwrap().to_string(),
            "things.json: fields that are not known are not used: `x`, `y`"
        );
    }

    #[test]
    fn the_documentation_has_every_field() {
        let text = TABLE.markdown();
        for row in [
            "| `rank` | applied: how many |",
            "| `author` | changes nothing here: a name |",
            "| `doubled` | refused unless it is not set: run it twice |",
            "| any other | refused, unless `null` or `false` |",
        ] {
            assert!(text.contains(row), "{text}");
        }
    }

    #[test]
    fn long_texts_are_brief() {
        assert_eq!(brief("x: 5"), "x: 5");
        let text = brief(format!("found {} at line 3", "é".repeat(100_000)));
        assert!(text.starts_with("found éé") && text.ends_with("éé at line 3"));
        assert!(text.contains(" ... ") && text.len() < 500, "{text}");
    }

    #[test]
    fn long_values_are_shortened_between_characters() {
        let text = shortened(&json!("é".repeat(100)));
        assert!(
            text.ends_with("é...") && text.chars().count() == 63,
            "{text}"
        );
    }
}
