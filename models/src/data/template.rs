use std::{convert::Infallible, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, SeqAccess, Visitor},
};

use serde_json::Value;

use super::{DataError, Record};

/// What stands where a record's text is expected.
const SENTENCE: &str = "a sentence";

/// A text with places for columns: `{column}` is the column's text, `{{` and `}}` are braces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(String),
    Column(String),
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// A brace without its partner, or a place without a name.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            literal += &rest[..at];
            let (brace, behind) = rest[at..].split_at(1);
            if let Some(behind) = behind.strip_prefix(brace) {
                literal += brace;
                rest = behind;
                continue;
            }
            let place = behind.split_once('}').filter(|_| brace == "{");
            let Some((column, behind)) = place.filter(|(name, _)| !name.contains('{')) else {
                return Err(format!(
                    "`{brace}` has no partner; write `{brace}{brace}` for the brace itself"
                ));
            };
            if column.is_empty() {
                return Err("`{}` names no column".to_owned());
            }
            parts.push(Part::Literal(std::mem::take(&mut literal)));
            parts.push(Part::Column(column.to_owned()));
            rest = behind;
        }
        parts.push(Part::Literal(literal + rest));
        parts.retain(|part| *part != Part::Literal(String::new()));
        Ok(Self(parts))
    }

    /// The columns that it has places for, in their order.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|part| match part {
            Part::Column(name) => Some(name.as_str()),
            Part::Literal(_) => None,
        })
    }

    /// The text with `value` of each column in its place. What is put in is not read as a template.
    ///
    /// # Errors
    /// Those of `value`.
    pub fn fill<'a, E>(
        &self,
        mut value: impl FnMut(&str) -> Result<&'a str, E>,
    ) -> Result<String, E> {
        let mut text = String::new();
        for part in &self.0 {
            text += match part {
                Part::Literal(literal) => literal,
                Part::Column(column) => value(column)?,
            };
        }
        Ok(text)
    }
}

impl fmt::Display for Template {
    /// As [`parse`](Template::parse) reads it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|part| match part {
            Part::Literal(text) => f.write_str(&text.replace('{', "{{").replace('}', "}}")),
            Part::Column(name) => write!(f, "{{{name}}}"),
        })
    }
}

/// A text of a record: a template, or several, of which the first is taken whose columns all hold
/// something. The columns of the last are needed, others may be missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text(Vec<Template>);

impl Text {
    /// A text by one template.
    ///
    /// # Errors
    /// As [`Template::parse`].
    pub fn parse(template: &str) -> Result<Self, String> {
        Ok(Self(vec![Template::parse(template)?]))
    }

    /// The templates, as a description has them.
    pub fn templates(&self) -> Vec<String> {
        self.0.iter().map(Template::to_string).collect()
    }

    fn last(&self) -> &Template {
        &self.0[self.0.len() - 1]
    }

    /// The columns that every record needs.
    pub fn needed(&self) -> impl Iterator<Item = &str> {
        self.last().columns()
    }

    /// All columns that are read, those that are needed first.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        self.0.iter().rev().flat_map(Template::columns)
    }

    /// The text of a record, and the values without the white space around them if `trim`. Blank
    /// values are an error unless `blank` says that they are texts too.
    ///
    /// # Errors
    /// A column that holds no text.
    pub fn of(&self, record: &Record<'_>, trim: bool, blank: bool) -> Result<String, DataError> {
        let is_there = |template: &&Template| {
            let mut columns = template.columns();
            columns.all(|column| !record.is_blank(column))
        };
        let template = self.0.iter().find(is_there).unwrap_or(self.last());
        template.fill(|column| {
            let needed = self.needed().any(|needed| needed == column);
            let expected = if needed {
                SENTENCE
            } else {
                "a text or nothing"
            };
            let text = match record.get(column) {
                Some(Value::String(text)) if blank && text.trim().is_empty() => text,
                Some(Value::Null) if blank => "",
                _ => record.text(column, expected)?,
            };
            Ok(if trim { text.trim() } else { text })
        })
    }

    /// The text of which the only column of the last template is `text`; `text` itself where that has
    /// none or several.
    pub fn around(&self, text: &str, trim: bool) -> String {
        if self.needed().count() != 1 {
            return text.to_owned();
        }
        let text = if trim { text.trim() } else { text };
        let Ok(filled) = self.last().fill(|_| Ok::<_, Infallible>(text));
        filled
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextVisitor)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Text;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a template such as \"{question}\", or a list of templates")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Text, E> {
        Text::parse(text).map_err(E::custom)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Text, A::Error> {
        let mut templates = Vec::new();
        while let Some(text) = seq.next_element::<String>()? {
            templates.push(Template::parse(&text).map_err(A::Error::custom)?);
        }
        match templates.is_empty() {
            true => Err(A::Error::custom("a list without templates")),
            false => Ok(Text(templates)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_filled_and_braces_are_kept() {
        let template = Template::parse("{{{a}}}: {b c}{#1 d}").unwrap();
        assert_eq!(template.columns().collect::<Vec<_>>(), ["a", "b c", "#1 d"]);
        let value = |column: &str| match column {
            "a" => Ok("{b c}"),
            "b c" => Ok("2"),
            _ => Err(()),
        };
        assert_eq!(template.fill(value), Err(()));
        let short = Template::parse("{{{a}}}: {b c}").unwrap();
        assert_eq!(short.fill(value).unwrap(), "{{b c}}: 2");
        assert_eq!(template.to_string(), "{{{a}}}: {b c}{#1 d}");
    }

    #[test]
    fn a_brace_alone_is_refused() {
        for text in ["{a", "a}", "{a {b}", "{}", "{a}}"] {
            assert!(Template::parse(text).is_err(), "{text}");
        }
        assert_eq!(Template::parse("").unwrap().columns().count(), 0);
    }
}
