use std::path::Path;

use super::*;

/// Collects records as JSON objects, and the errors of those that cannot be read.
#[derive(Default)]
struct Collected {
    records: Vec<Value>,
    malformed: Vec<String>,
}

impl Sink for Collected {
    fn columns(&mut self, _: &Path, _: &[&str]) -> Result<(), DataError> {
        panic!("records name their own fields")
    }

    fn record(&mut self, record: Record<'_>) -> Result<(), DataError> {
        let fields = record.fields();
        let fields = fields.map(|(name, value)| (name.to_owned(), value.clone()));
        self.records.push(Value::Object(fields.collect()));
        Ok(())
    }

    fn malformed(&mut self, error: DataError) -> Result<(), DataError> {
        self.malformed.push(error.to_string());
        Ok(())
    }
}

fn read(text: &str) -> Result<Collected, String> {
    let mut collected = Collected::default();
    let source = Source::new(Path::new("f"), text.as_bytes(), None);
    let read = source.and_then(|mut source| Squad {}.read(&mut source, &mut collected));
    read.map_err(|error| error.to_string()).map(|()| collected)
}

/// A file with this question about a paragraph.
fn asked(question: Value) -> String {
    json!({"data": [{"title": "T", "paragraphs": [{"context": "a b", "qas": [question]}]}]})
        .to_string()
}

/// PITFALLS 57 and 59: numbers are code points, and line ends stay.
#[test]
fn a_question_is_a_record_with_its_texts_as_they_are() {
    let context =
        "Caf\u{e9} \u{2014} the na\u{ef}ve \u{5317}\u{4eac} answer \u{1f642} is forty two.\r\nb";
    let file = json!({"version": "v2.0", "data": [
        {"title": "A_1", "paragraphs": [
            {"context": context, "qas": [
                {"id": "q1", "question": "  How many?", "is_impossible": false, "answers": [
                    {"text": "forty two", "answer_start": 32}, {"text": "two", "answer_start": 38}]},
                {"id": "q2", "question": "Who?", "is_impossible": true, "answers": [],
                 "plausible_answers": [{"text": "b", "answer_start": 44}]}]},
            {"context": "x", "document_id": 7, "qas": []}]},
        {"title": "B", "paragraphs": [
            {"context": "y", "qas": [{"id": 3, "question": "Why?", "answers": null}]}]}]});
    let found = read(&format!("\u{feff}\n{file}")).unwrap();
    let expected = [
        json!({"id": "q1", "title": "A_1", "context": context, "question": "  How many?",
               "answers": ["forty two", "two"], "answer_start": [32, 38], "is_impossible": false}),
        json!({"id": "q2", "title": "A_1", "context": context, "question": "Who?", "answers": [],
               "answer_start": [], "is_impossible": true}),
        json!({"id": "3", "title": "B", "context": "y", "question": "Why?"}),
    ];
    assert_eq!(found.records, expected);
    assert!(found.malformed.is_empty());
    let answer: String = context.chars().skip(32).take(9).collect();
    assert_eq!(answer, "forty two");
}

#[test]
fn the_title_and_the_version_may_stand_behind_what_they_are_of() {
    let text = r#"{"data": [{"paragraphs": [{"qas": [{"question": "Q", "answers": [], "id": "i"}],
        "context": "c"}], "title": "T"}], "version": 1.1}"#;
    assert_eq!(read(text).unwrap().records[0]["title"], "T");
    let mut source = Source::new(Path::new("f"), text.as_bytes(), None).unwrap();
    let version = questions(&mut source, &mut |_, _| Ok(())).unwrap();
    assert_eq!(version.as_deref(), Some("1.1"));
    assert!(read(" \n").unwrap().records.is_empty());
    assert!(read(r#"{"data": []}"#).unwrap().records.is_empty());
}

#[test]
fn what_is_no_file_of_squad_is_refused_by_name() {
    let of = |article: &str| format!(r#"{{"data": [{article}]}}"#);
    for (text, expected) in [
        ("[]".into(), "an object with the field `data`"),
        (
            r#"{"version": "1.1"}"#.into(),
            "there is no `data`, only \"version\" (rows of questions",
        ),
        (r#"{"data": {}}"#.into(), "a list of articles"),
        (
            r#"{"data": [], "data": []}"#.into(),
            "`data` is there twice",
        ),
        (
            r#"{"data": [], "split": "dev"}"#.into(),
            "`split` is \"dev\"; this field is not known",
        ),
        (
            r#"{"data": [], "version": []}"#.into(),
            "`version`: expected a text, found \"[]\"",
        ),
        (r#"{"data": []} {}"#.into(), "trailing characters"),
        (r#"{"data": ["#.into(), "EOF"),
        (
            of("7"),
            "article 1: expected an article of `data`, an object, found \"7\"",
        ),
        (
            of("{}"),
            "article 1: `paragraphs`: expected a list, found no such field",
        ),
        (
            of(r#"{"paragraphs": [], "a": 1}"#),
            "article 1: `a` is 1; this field is not known",
        ),
        (
            of(r#"{"paragraphs": [], "title": 1}"#),
            "article 1: `title`: expected a text",
        ),
        (
            of(r#"{"paragraphs": []}, {"paragraphs": [{"qas": []}]}"#),
            "article 2, paragraph 1: `context`: expected a text, found no such field",
        ),
        (
            of(r#"{"paragraphs": [{"context": "c", "context": "d", "qas": []}]}"#),
            "`context` is there twice",
        ),
    ] {
        let error = read(&text).err().unwrap();
        let start = "f: expected a file of SQuAD, an object with articles in `data`: ";
        assert!(
            error.starts_with(start) && error.contains(expected),
            "{error}"
        );
    }
}

#[test]
fn a_question_that_is_none_is_malformed_by_its_number() {
    let whole = json!({"id": "i", "question": "Q", "answers": [{"text": "a", "answer_start": 0}]});
    assert_eq!(read(&asked(whole.clone())).unwrap().records.len(), 1);
    let with = |name: &str, value: Value| {
        let mut question = whole.clone();
        question[name] = value;
        question
    };
    for (question, expected) in [
        (json!(3), "expected a question of `qas`, an object"),
        (
            with("id", json!(null)),
            "`id`: expected a text, found \"null\"",
        ),
        (
            with("question", json!(["Q"])),
            "`question`: expected a text",
        ),
        (with("answers", json!("a")), "`answers`: expected a list"),
        (
            with("answers", json!([{"text": "a"}])),
            "`answer_start`: expected the number",
        ),
        (
            with("answers", json!([{"text": "a", "answer_start": -1}])),
            "found \"-1\"",
        ),
        (
            with("answers", json!([{"answer_start": 1}])),
            "`text`: expected a text",
        ),
        (
            with(
                "answers",
                json!([{"text": "a", "answer_start": 0, "yes": 1}]),
            ),
            "`yes` is 1; this field is not known",
        ),
        (
            with("yes_no", json!("yes")),
            "`yes_no` is \"yes\"; this field is not known",
        ),
        (
            with("is_impossible", json!("no")),
            "`is_impossible`: expected true or false",
        ),
        (
            with("is_impossible", json!(true)),
            "`i` has 1 answers, and `is_impossible` is true: one of them is wrong",
        ),
    ] {
        let found = read(&asked(question)).unwrap();
        assert!(found.records.is_empty());
        let [error] = &found.malformed[..] else {
            panic!("{:?}", found.malformed)
        };
        assert!(
            error.contains("question 1: ") && error.contains(expected),
            "{error}"
        );
    }
    let none = json!({"id": "i", "question": "Q", "answers": [], "is_impossible": false});
    assert_eq!(read(&asked(none)).unwrap().malformed.len(), 1);
}

/// Hugging Face's files have the answers of a question in an object, where columns are named as fields.
#[test]
fn both_forms_of_the_files_give_the_same_targets() {
    use crate::task::{Labels, Malformed, Task};

    let folder = tempfile::tempdir().unwrap();
    let question = json!({"id": "i", "question": "Q?", "answers": [
        {"text": "b", "answer_start": 2}, {"text": "a b", "answer_start": 0}]});
    std::fs::write(folder.path().join("own.json"), asked(question)).unwrap();
    let row = json!({"id": "i", "title": "T", "context": "a b", "question": "Q?",
        "answers": {"text": ["b", "a b"], "answer_start": [2, 0]}});
    std::fs::write(folder.path().join("rows.jsonl"), row.to_string()).unwrap();
    let columns = ["answers.text", "answers.answer_start"];
    let source = Source::new(Path::new("f"), &b""[..], Some(&columns)).unwrap();
    assert!(source.reads("answers") && !source.reads("text"));
    for (file, format, answers, starts) in [
        ("own.json", "squad", "answers", "answer_start"),
        ("rows.jsonl", "jsonl", columns[0], columns[1]),
    ] {
        let description = json!({
            "name": "questions", "format": format, "text": "{question}", "pair": "{context}",
            "objective": {"extractive": {"answers": answers, "starts": starts}},
            "unused": ["id", "title"], "train": [file],
        });
        let task = Task::from_value(description).unwrap();
        let path = folder.path().join(file);
        let read = task.load(&[&path], Labels::Required, Malformed::Refused);
        let read = read.unwrap();
        assert_eq!(read.notes, []);
        let [example] = &read.examples[..] else {
            panic!("{:?}", read.examples)
        };
        assert_eq!(
            (&*example.text, example.pair.as_deref()),
            ("Q?", Some("a b"))
        );
        let target = json!({"answers": ["b", "a b"], "start": 2});
        assert_eq!(example.target, Some(target));
    }
}
