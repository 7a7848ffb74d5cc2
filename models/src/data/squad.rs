//! SQuAD's own files (Rajpurkar et al., 2016 and 2018): articles, their paragraphs, and questions about
//! these.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer as _,
    de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Value, json};

use super::{DataError, Format, Place, Record, Sink, Source, quote};
use crate::closed::{Field, Table, Unknown, applied, inert, json::Unique};

/// What a file should be.
const EXPECTED: &str = "a file of SQuAD, an object with articles in `data`";

/// Questions about paragraphs, in the JSON of SQuAD 1.1 and 2.0 and of the sets that have its form.
///
/// A record is a question. Its columns are `id`, `title`, `context`, `question`, `answers`, a list of
/// texts, and `answer_start`, a list of as many whole numbers: where in `context` each text starts, in
/// Unicode code points. A question that cannot be answered has empty lists. A file of 2.0 has a column
/// `is_impossible` too, true or false; one without answers has neither `answers` nor `answer_start`.
/// Texts are as the file has them. That an answer is where its number says is not checked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Squad {}

/// A question about a paragraph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Its name, by which predictions are given.
    pub id: String,
    /// Its text.
    pub question: String,
    /// The paragraph.
    pub context: String,
    /// The title of the paragraph's article.
    pub title: Option<String>,
    /// The answers that annotators gave; none of a file without answers.
    pub answers: Option<Vec<Answer>>,
    /// Whether the paragraph does not answer it; none of a file of 1.1.
    pub is_impossible: Option<bool>,
}

/// An answer to a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its text, a part of the paragraph.
    pub text: String,
    /// Where it starts in the paragraph, in Unicode code points.
    pub start: u64,
}

/// A file.
pub(crate) static FILE: Table = table(
    "a file",
    &[&[
        applied("version", "which version's rules score it"),
        applied("data", "the articles"),
    ]],
);

/// An article.
pub(crate) static ARTICLE: Table = table(
    "an article of `data`",
    &[&[
        applied("title", "the column `title`"),
        applied("paragraphs", "its paragraphs"),
        inert("id", "a name"),
    ]],
);

/// A paragraph.
pub(crate) static PARAGRAPH: Table = table(
    "a paragraph of `paragraphs`",
    &[&[
        applied("context", "the column `context`"),
        applied("qas", "its questions"),
        inert("id", "a name"),
        inert("document_id", "a name"),
    ]],
);

/// A question.
pub(crate) static QUESTION: Table = table(
    "a question of `qas`",
    &[&[
        applied("id", "the column `id`"),
        applied("question", "the column `question`"),
        applied("answers", "the columns `answers` and `answer_start`"),
        applied("is_impossible", "the column `is_impossible`"),
        inert(
            "plausible_answers",
            "wrong answers, which nothing is learned of",
        ),
        inert("document_id", "a name"),
    ]],
);

/// An answer.
pub(crate) static ANSWER: Table = table(
    "an answer of `answers`",
    &[&[
        applied("text", "one of the column `answers`"),
        applied("answer_start", "one of the column `answer_start`"),
        inert("answer_id", "a name"),
        inert("document_id", "a name"),
        inert("question_id", "a name"),
        inert("answer_category", "how the annotator described it"),
    ]],
);

const fn table(file: &'static str, fields: &'static [&'static [Field]]) -> Table {
    Table {
        file,
        fields,
        unknown: Unknown::Refused,
    }
}

impl Format for Squad {
    fn read(&self, source: &mut Source<'_>, sink: &mut dyn Sink) -> Result<(), DataError> {
        if source.first_byte()?.is_none() {
            return Ok(());
        }
        let path = source.path;
        questions(source, &mut |number, question| match question {
            Ok(question) => sink.record(Record::new(path, Place::Record(number), fields(question))),
            Err(error) => sink.malformed(error),
        })?;
        Ok(())
    }
}

/// A question as a record's columns.
fn fields(question: Question) -> Vec<(Cow<'static, str>, Value)> {
    let mut fields = vec![("id", json!(question.id))];
    fields.extend(question.title.map(|title| ("title", json!(title))));
    fields.push(("context", json!(question.context)));
    fields.push(("question", json!(question.question)));
    if let Some(answers) = question.answers {
        let starts: Vec<u64> = answers.iter().map(|answer| answer.start).collect();
        let texts = answers.into_iter().map(|answer| Value::from(answer.text));
        fields.push(("answers", texts.collect()));
        fields.push(("answer_start", json!(starts)));
    }
    let is_impossible = question.is_impossible;
    fields.extend(is_impossible.map(|is| ("is_impossible", json!(is))));
    let fields = fields.into_iter();
    fields
        .map(|(name, value)| (Cow::Borrowed(name), value))
        .collect()
}

/// What takes the questions of a file, with the number of each, from 1.
pub type Take<'a> = dyn FnMut(usize, Result<Question, DataError>) -> Result<(), DataError> + 'a;

/// Hands every question of a file to `take`, in their order, an article at a time. Returns the `version`
/// that the file names, if it names one.
///
/// # Errors
/// Those of `take`, and a file, an article or a paragraph that is not SQuAD's. A question that is not
/// is handed over as an error.
pub fn questions(
    source: &mut Source<'_>,
    take: &mut Take<'_>,
) -> Result<Option<String>, DataError> {
    let path = source.path;
    let malformed = |cause: String| DataError::Form {
        path: path.to_owned(),
        expected: EXPECTED.to_owned(),
        cause,
    };
    let mut reader = Reader {
        malformed: &malformed,
        take,
        articles: 0,
        questions: 0,
        version: None,
        wrong: None,
    };
    let mut json = serde_json::Deserializer::from_reader(source.bytes());
    let whole = json.deserialize_map(&mut reader).and_then(|()| json.end());
    match (reader.wrong, whole) {
        (Some(wrong), _) => Err(wrong),
        (None, Err(cause)) => Err(malformed(cause.to_string())),
        (None, Ok(())) => Ok(reader.version),
    }
}

/// Reads a file as a stream of articles.
struct Reader<'a, 'b> {
    malformed: &'a dyn Fn(String) -> DataError,
    take: &'a mut Take<'b>,
    articles: usize,
    questions: usize,
    version: Option<String>,
    /// Why reading ended early.
    wrong: Option<DataError>,
}

impl Reader<'_, '_> {
    fn article(&mut self, article: Value) -> Result<(), DataError> {
        self.articles += 1;
        let place = format!("article {}", self.articles);
        let wrong = |cause| (self.malformed)(format!("{place}: {cause}"));
        let mut article = object(article, &ARTICLE).map_err(wrong)?;
        let title = match article.remove("title") {
            None | Some(Value::Null) => None,
            Some(Value::String(title)) => Some(title),
            Some(other) => return Err(wrong(unlike("title", "a text", Some(&other)))),
        };
        let paragraphs = list(&mut article, "paragraphs").map_err(wrong)?;
        for (index, paragraph) in paragraphs.into_iter().enumerate() {
            let wrong =
                |cause| (self.malformed)(format!("{place}, paragraph {}: {cause}", index + 1));
            let mut paragraph = object(paragraph, &PARAGRAPH).map_err(wrong)?;
            let context = text(&mut paragraph, "context").map_err(wrong)?;
            for question in list(&mut paragraph, "qas").map_err(wrong)? {
                self.questions += 1;
                let number = self.questions;
                let question = self::question(question, &context, title.as_deref());
                let question = question
                    .map_err(|cause| (self.malformed)(format!("question {number}: {cause}")));
                (self.take)(number, question)?;
            }
        }
        Ok(())
    }
}

/// The question that a value is.
fn question(value: Value, context: &str, title: Option<&str>) -> Result<Question, String> {
    let mut question = object(value, &QUESTION)?;
    let id = match question.remove("id") {
        Some(Value::String(id)) => id,
        Some(Value::Number(id)) => id.to_string(),
        other => return Err(unlike("id", "a text", other.as_ref())),
    };
    let is_impossible = match question.remove("is_impossible") {
        None | Some(Value::Null) => None,
        Some(Value::Bool(is)) => Some(is),
        Some(other) => return Err(unlike("is_impossible", "true or false", Some(&other))),
    };
    let answers = match question.remove("answers") {
        None | Some(Value::Null) => None,
        Some(Value::Array(answers)) => Some(
            answers
                .into_iter()
                .map(answer)
                .collect::<Result<Vec<_>, _>>()?,
        ),
        Some(other) => return Err(unlike("answers", "a list", Some(&other))),
    };
    let is_answered = answers.as_ref().map(|answers| !answers.is_empty());
    if let (Some(is_impossible), Some(is_answered)) = (is_impossible, is_answered)
        && is_impossible == is_answered
    {
        let count = answers.map_or(0, |answers| answers.len());
        return Err(format!(
            "`{id}` has {count} answers, and `is_impossible` is {is_impossible}: one of them is wrong"
        ));
    }
    Ok(Question {
        id,
        question: text(&mut question, "question")?,
        context: context.to_owned(),
        title: title.map(str::to_owned),
        answers,
        is_impossible,
    })
}

fn answer(value: Value) -> Result<Answer, String> {
    let mut answer = object(value, &ANSWER)?;
    let start = answer.remove("answer_start");
    Ok(Answer {
        text: text(&mut answer, "text")?,
        start: start.as_ref().and_then(Value::as_u64).ok_or_else(|| {
            let expected = "the number of the answer's first character, from 0";
            unlike("answer_start", expected, start.as_ref())
        })?,
    })
}

/// The object that a value is, of fields that a table knows.
fn object(value: Value, table: &Table) -> Result<Map<String, Value>, String> {
    match value {
        Value::Object(object) => match table.check("".as_ref(), &object) {
            Ok(_) => Ok(object),
            Err(refused) => Err(format!(
                "`{}` is {}; {}",
                refused.field, refused.found, refused.expected
            )),
        },
        other => Err(format!(
            "expected {}, an object, found {}",
            table.file,
            quote(&other.to_string())
        )),
    }
}

fn text(object: &mut Map<String, Value>, name: &str) -> Result<String, String> {
    match object.remove(name) {
        Some(Value::String(text)) => Ok(text),
        other => Err(unlike(name, "a text", other.as_ref())),
    }
}

fn list(object: &mut Map<String, Value>, name: &str) -> Result<Vec<Value>, String> {
    match object.remove(name) {
        Some(Value::Array(list)) => Ok(list),
        other => Err(unlike(name, "a list", other.as_ref())),
    }
}

fn unlike(name: &str, expected: &str, found: Option<&Value>) -> String {
    let found = found.map_or("no such field".to_owned(), |value| {
        quote(&value.to_string())
    });
    format!("`{name}`: expected {expected}, found {found}")
}

/// The file, an object with the list of articles.
impl<'de> Visitor<'de> for &mut Reader<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with the field `data`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut known = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            let value = match &*name {
                "data" if !known.contains_key("data") => {
                    map.next_value_seed(Articles(self))?;
                    Value::Null
                }
                "data" => {
                    map.next_value::<IgnoredAny>()?;
                    Value::Null
                }
                _ => map.next_value::<Unique>()?.0,
            };
            if known.insert(name.clone(), value).is_some() {
                return Err(A::Error::custom(format!("`{name}` is there twice")));
            }
        }
        if !known.contains_key("data") {
            let names: Vec<&str> = known.keys().map(String::as_str).collect();
            let names = quote(&names.join(", "));
            return Err(A::Error::custom(format!(
                "there is no `data`, only {names} (rows of questions are no file of SQuAD)"
            )));
        }
        let mut file = object(known.into(), &FILE).map_err(A::Error::custom)?;
        self.version = match file.remove("version") {
            None | Some(Value::Null) => None,
            Some(Value::String(version)) => Some(version),
            Some(Value::Number(version)) => Some(version.to_string()),
            Some(other) => {
                let cause = unlike("version", "a text", Some(&other));
                return Err(A::Error::custom(cause));
            }
        };
        Ok(())
    }
}

/// The list of articles.
struct Articles<'a, 'b, 'c>(&'a mut Reader<'b, 'c>);

impl<'de> DeserializeSeed<'de> for Articles<'_, '_, '_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Articles<'_, '_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of articles")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while let Some(Unique(article)) = seq.next_element()? {
            if let Err(wrong) = self.0.article(article) {
                self.0.wrong = Some(wrong);
                return Err(A::Error::custom("an article cannot be used"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
