//! One long file: the cases of all tasks share their rows.

use std::path::{Path, PathBuf};

use ailora_runtime::train::Better;
use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::{closed::Note, data::Example};

fn task(name: &str) -> Task {
    Task::parse(name).unwrap()
}

fn load(name: &str, content: impl AsRef<[u8]>, labels: Labels) -> Result<Vec<Example>, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data.tsv");
    std::fs::write(&path, content).unwrap();
    let loaded = task(name).load(&[&path], labels, Malformed::Refused);
    loaded.map(|file| file.examples).map_err(|e| {
        e.to_string()
            .replace(&path.display().to_string(), "data.tsv")
    })
}

fn required(name: &str, content: impl AsRef<[u8]>) -> Result<Vec<Example>, String> {
    load(name, content, Labels::Required)
}

fn single(text: &str, class: usize) -> Example {
    Example {
        id: None,
        text: text.to_owned(),
        pair: None,
        target: Some(class.into()),
    }
}

fn class(class: usize) -> Value {
    class.into()
}

fn pair(text: &str, pair: &str, target: Value) -> Example {
    Example {
        id: None,
        text: text.to_owned(),
        pair: Some(pair.to_owned()),
        target: Some(target),
    }
}

#[test]
fn names_and_aliases_whatever_the_case() {
    for (spelling, name) in [
        ("cola", "cola"),
        ("CoLA", "cola"),
        ("SST-2", "sst2"),
        ("sts-b", "stsb"),
    ] {
        assert_eq!(task(spelling).name, name);
    }
    let message = Task::parse("colla").unwrap_err().to_string();
    assert_eq!(
        message,
        "unknown task `colla`; known tasks: cola, sst2, mrpc, qqp, stsb, mnli, qnli, rte, squad, squad2, svamp, \
         math, math10k, xsum, cnn_dailymail, scitldr; did you mean `cola`?"
    );
    let message = Task::parse("imagenet").unwrap_err().to_string();
    assert!(message.ends_with("cnn_dailymail, scitldr"), "{message}");
}

#[test]
fn label_order_and_headline_are_the_official_ones() {
    let facts: Vec<_> = TASKS
        .iter()
        .filter_map(|t| {
            let Head::Sequence { outputs, .. } = t.head() else {
                return None;
            };
            let first = t.label_names().first().map(String::as_str);
            Some((
                t.name.as_str(),
                outputs,
                first,
                t.objective.headlines().remove(0).name,
            ))
        })
        .collect();
    let expected = [
        ("cola", 2, Some("unacceptable"), "matthews"),
        ("sst2", 2, Some("negative"), "accuracy"),
        ("mrpc", 2, Some("not_equivalent"), "f1"),
        ("qqp", 2, Some("not_duplicate"), "f1"),
        ("stsb", 1, None, "spearman"),
        ("mnli", 3, Some("entailment"), "accuracy"),
        ("qnli", 2, Some("entailment"), "accuracy"),
        ("rte", 2, Some("entailment"), "accuracy"),
        ("svamp", 4, Some("Addition"), "accuracy"),
    ];
    let expected =
        expected.map(|(task, outputs, label, name)| (task, outputs, label, name.to_owned()));
    assert_eq!(facts, expected);
    let math = task("math").objective.headlines().remove(0);
    assert_eq!((&*math.name, math.better), ("loss", Better::Lower));
}

#[test]
fn every_official_layout() {
    let rows = |name, content: &str| required(name, content).unwrap();
    // Quotes are ordinary characters; CoLA has no header; the last line may lack its line feed.
    assert_eq!(
        rows("cola", "gj04\t1\t\tShe said \"no.\ngj04\t0\t*\tHim \"left"),
        [single("She said \"no.", 1), single("Him \"left", 0)]
    );
    assert_eq!(
        rows("sst2", "sentence\tlabel\nso bad \t0\n"),
        [single("so bad ", 0)]
    );
    // A byte-order mark and CRLF line ends, as in some copies of MRPC.
    assert_eq!(
        rows(
            "mrpc",
            "\u{feff}Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n1\t70\t71\tA b.\tB a.\r\n"
        ),
        [pair("A b.", "B a.", class(1))]
    );
    assert_eq!(
        rows(
            "qqp",
            "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n9\t1\t2\tWhy?\tHow?\t0\n"
        ),
        [pair("Why?", "How?", class(0))]
    );
    let stsb =
        "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n";
    assert_eq!(
        rows(
            "stsb",
            &format!(
                "{stsb}0\tg\tf\t2012\t1\tn\tn\tA.\tB.\t3.800\n1\tg\tf\t2012\t1\tn\tn\tC.\tD.\t5\n"
            )
        ),
        [
            pair("A.", "B.", Value::from(3.8_f32)),
            pair("C.", "D.", Value::from(5.0_f32))
        ]
    );
    // The development files have five more label columns than the training file.
    assert_eq!(
        rows(
            "mnli",
            "index\tsentence1\tsentence2\tlabel1\tgold_label\n0\tA.\tB.\tneutral\tcontradiction\n"
        ),
        [pair("A.", "B.", class(2))]
    );
    assert_eq!(
        rows(
            "qnli",
            "index\tquestion\tsentence\tlabel\n0\tWho?\tHe.\tnot_entailment\n"
        ),
        [pair("Who?", "He.", class(1))]
    );
    assert_eq!(
        rows(
            "rte",
            "index\tsentence1\tsentence2\tlabel\n0\tA.\tB.\tentailment\n"
        ),
        [pair("A.", "B.", class(0))]
    );
}

#[test]
fn test_files_without_labels() {
    let bare = |text: &str, pair: Option<&str>| Example {
        id: None,
        text: text.to_owned(),
        pair: pair.map(str::to_owned),
        target: None,
    };
    let optional = |name, content| load(name, content, Labels::Optional).unwrap();
    assert_eq!(
        optional("cola", "index\tsentence\n0\tBill left.\n"),
        [bare("Bill left.", None)]
    );
    assert_eq!(
        optional("rte", "index\tsentence1\tsentence2\n0\tA.\tB.\n"),
        [bare("A.", Some("B."))]
    );
    assert_eq!(
        optional("sst2", "sentence\tlabel\ngood\t\nbad\t0\n"),
        [bare("good", None), single("bad", 0)]
    );
    assert_eq!(
        load("sst2", "sentence\tlabel\ngood\t7\n", Labels::Optional).unwrap_err(),
        "data.tsv, line 2, column `label`: expected one of 0 (negative), 1 (positive), found \"7\""
    );
    assert_eq!(
        required("rte", "index\tsentence1\tsentence2\n0\tA.\tB.\n").unwrap_err(),
        "data.tsv, line 1: the header has no column `label`; found columns: \"index, sentence1, sentence2\""
    );
}

fn refuses(name: &str, content: &[u8], reason: &str) {
    let message = required(name, content).unwrap_err();
    let start = format!("data.tsv, {reason}");
    assert!(message.starts_with(&start), "{message}");
}

#[test]
fn malformed_rows_of_classes_are_named_by_line_and_column() {
    let rte = "index\tsentence1\tsentence2\tlabel\n0\tA.\tB.\tentailment\n";
    let cases: [(&str, Vec<u8>, &str); 11] = [
        (
            "rte",
            format!("{rte}1\tA.\tentailment").into(),
            "line 3: expected 4 tab-separated columns (index, sentence1, sentence2, label), found 3",
        ),
        (
            "rte",
            format!("{rte}1\tA.\tB.\tC.\tentailment").into(),
            "line 3: expected 4 tab-separated",
        ),
        (
            "rte",
            format!("{rte}\n1\tA.\tB.\tentailment").into(),
            "line 3: expected 4 tab-separated",
        ),
        (
            "rte",
            format!("{rte}1\tA.\t \tentailment").into(),
            "line 3, column `sentence2`: expected a sentence, found \" \"",
        ),
        (
            "rte",
            format!("{rte}1\t\t\tentailment").into(),
            "line 3, column `sentence1`: expected a sentence, found nothing",
        ),
        (
            "rte",
            format!("{rte}1\tA.\tB.\tentailmnt").into(),
            "line 3, column `label`: expected one of entailment, not_entailment; did you mean `entailment`?, found \"entailmnt\"",
        ),
        (
            "rte",
            format!("{rte}1\tA.\tB.\t").into(),
            "line 3, column `label`: expected one of entailment, not_entailment, found nothing",
        ),
        (
            "cola",
            b"gj04\t2\t\tHi.".to_vec(),
            "line 1, column `label`: expected one of 0 (unacceptable), 1 (acceptable), found \"2\"",
        ),
        (
            "cola",
            b"gj04\t1\tHi.".to_vec(),
            "line 1: expected 4 tab-separated columns (source, label, mark, sentence), found 3",
        ),
        (
            "cola",
            b"gj04\t1\t\tOk.\ngj04\t1\t\tCaf\xe9.".to_vec(),
            "line 2, column `sentence`: expected UTF-8 text, found byte 0xe9 at position 12 of the line",
        ),
        (
            "cola",
            b"gj04\t1\t\0\tOk.".to_vec(),
            "line 1, column `mark`: expected text without NUL, found byte 0x00",
        ),
    ];
    for (name, content, expected) in cases {
        refuses(name, &content, expected);
    }
}

#[test]
fn malformed_rows_of_scores_are_named_by_line_and_column() {
    let stsb = "sentence1\tsentence2\tscore\n";
    let cases: [(&str, Vec<u8>, &str); 3] = [
        (
            "stsb",
            format!("{stsb}A.\tB.\t5.1").into(),
            "line 2, column `score`: expected a number from 0 to 5, found \"5.1\"",
        ),
        (
            "stsb",
            format!("{stsb}A.\tB.\tNaN").into(),
            "line 2, column `score`: expected a number from 0 to 5, found \"NaN\"",
        ),
        (
            "stsb",
            b"a\tb\tc\nA.\tB.\t1".to_vec(),
            "line 1: the header has no column `sentence1`; found columns: \"a, b, c\"",
        ),
    ];
    for (name, content, expected) in cases {
        refuses(name, &content, expected);
    }
}

#[test]
fn files_without_examples_or_without_a_file() {
    for (name, content) in [
        ("sst2", ""),
        ("cola", ""),
        ("sst2", "sentence\tlabel\n"),
        ("sst2", "\u{feff}sentence\tlabel"),
    ] {
        assert_eq!(
            required(name, content).unwrap_err(),
            "data.tsv holds no examples"
        );
    }
    let missing = task("rte")
        .load(&["no/such.tsv"], Labels::Required, Malformed::Refused)
        .unwrap_err();
    assert!(missing.to_string().starts_with("cannot read no/such.tsv"));
}

/// Fields that no record before had take no longer, however many there are; and what is wrong with
/// a record is said before the next is read.
#[test]
fn records_are_read_one_by_one() {
    let record = |i: usize| format!("{{\"instruction\": \"a\", \"output\": \"b\", \"x{i}\": 1}}");
    let records: Vec<String> = (0..40_000).map(record).collect();
    let start = std::time::Instant::now();
    let read = required("math", format!("[{}]", records.join(","))).unwrap();
    assert_eq!(read.len(), records.len());
    assert!(start.elapsed() < std::time::Duration::from_secs(10));
    let error = required("math", format!("[{}, {{}}, damaged", record(1))).unwrap_err();
    assert!(error.contains("record 2"), "{error}");
    let error = required("math", format!("[{}, 7]", record(1))).unwrap_err();
    assert!(error.contains("record 2 is"), "{error}");
    let error = required("math", format!("[{}] more", record(1))).unwrap_err();
    assert!(error.contains("trailing"), "{error}");
}

/// Twice the lines take about twice the time: a quadratic reader would take four times.
#[test]
fn a_row_of_many_lines_takes_time_in_proportion() {
    let head = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n";
    let row = |lines: usize| {
        let question = "one of many lines\n".repeat(lines);
        format!("{head}1\t2\t3\t{question}\tB?\t0\n")
    };
    let time = |lines: usize| {
        let text = row(lines);
        let best = (0..3).map(|_| {
            let start = std::time::Instant::now();
            let found = required("qqp", &text).unwrap();
            assert_eq!(found[0].text.len(), lines * 18);
            start.elapsed()
        });
        best.min().unwrap()
    };
    let (short, long) = (time(20_000), time(160_000));
    assert!(
        long < short * 24 + std::time::Duration::from_millis(50),
        "{short:?} {long:?}"
    );
    // Nor where the row is never completed.
    let endless = row(160_000).replace("\tB?\t0\n", "");
    let start = std::time::Instant::now();
    let error = required("qqp", endless).unwrap_err();
    assert!(error.contains("line 2"), "{error}");
    assert!(start.elapsed() < std::time::Duration::from_secs(5));
}

/// The published QQP holds line feeds inside questions, and questions that are empty.
#[test]
fn qqp_rows_over_several_lines_are_read_whole() {
    let head = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n";
    let broken = "1\t2\t3\t\"Was he\n\"\tWas he real?\t0\n4\t5\t6\tHow?\tWhy\r\n\nso?\t1\n7\t8\t9\tWho?\t\t0\n";
    assert_eq!(
        required("qqp", format!("{head}{broken}")).unwrap(),
        [
            pair("\"Was he \"", "Was he real?", class(0)),
            pair("How?", "Why  so?", class(1)),
            pair("Who?", "", class(0)),
        ]
    );
    let whole = "9\t9\t9\tA?\tB?\t1\n";
    for (bad, message) in [
        ("1\t2\t3\tA?\t1", "line 2: expected 6 tab-separated"),
        ("1\t2", "line 2: expected 6 tab-separated"),
        ("", "line 2: expected 6 tab-separated"),
        (
            "1\t2\t3\t\t\t1",
            "line 2, column `question1`: expected a sentence",
        ),
    ] {
        let error = required("qqp", format!("{head}{bad}\n{whole}")).unwrap_err();
        assert!(error.contains(message), "{error}");
    }
    let cut = required("qqp", format!("{head}{whole}1\t2\t3\tA?")).unwrap_err();
    assert!(cut.contains("line 3: expected 6 tab-separated"), "{cut}");
}

#[test]
fn a_folder_gives_its_named_splits() {
    let dir = tempfile::tempdir().unwrap();
    let write = |file: &str, text: &str, label: &str| {
        let content = format!("sentence1\tsentence2\tgold_label\n{text}\tB.\t{label}\n");
        std::fs::write(dir.path().join(file), content).unwrap();
    };
    write("train.tsv", "T.", "neutral");
    write("dev_matched.tsv", "M.", "entailment");
    let message = task("mnli")
        .load_dir(dir.path(), Malformed::Refused)
        .unwrap_err()
        .to_string();
    assert!(
        message.ends_with(
            "has no file dev_mismatched.tsv, which holds the mismatched split of task mnli"
        ),
        "{message}"
    );
    write("dev_mismatched.tsv", "N.", "contradiction");
    let splits = task("mnli")
        .load_dir(dir.path(), Malformed::Refused)
        .unwrap();
    assert_eq!(splits.train, [pair("T.", "B.", class(1))]);
    assert_eq!(
        splits.dev.keys().collect::<Vec<_>>(),
        ["matched", "mismatched"]
    );
    assert_eq!(splits.dev["matched"], [pair("M.", "B.", class(0))]);
    assert_eq!(splits.dev["mismatched"], [pair("N.", "B.", class(2))]);
}

fn svamp() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data/svamp")
}

#[test]
fn bundled_svamp() {
    let all = task("svamp")
        .load(
            &[svamp().join("SVAMP.json")],
            Labels::Required,
            Malformed::Refused,
        )
        .unwrap();
    assert_eq!(all.notes, []);
    let all = all.examples;
    let mut counts = [0; 4];
    for example in &all {
        let class = example.target.as_ref().and_then(Value::as_u64).unwrap();
        counts[class as usize] += 1;
    }
    // 165 spelt `Common-Division` and one `Common-Divison`.
    assert_eq!(counts, [195, 531, 108, 166]);
    assert_eq!(
        all[0],
        single(
            "Each pack of dvds costs 76 dollars. If there is a discount of 25 dollars on each pack \
             How much do you have to pay to buy each pack?",
            1
        )
    );
    let splits = task("svamp")
        .load_dir(&svamp(), Malformed::Refused)
        .unwrap();
    assert_eq!(splits.notes, []);
    assert_eq!((splits.train.len(), splits.dev["dev"].len()), (800, 200));
    assert_eq!(splits.train[4..6], all[5..7]);
    assert_eq!(splits.dev["dev"][..2], [all[4].clone(), all[9].clone()]);
}

/// The notes of a file as they are printed.
fn notes(name: &str, content: &str) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data");
    std::fs::write(&path, content).unwrap();
    let file = task(name)
        .load(&[&path], Labels::Required, Malformed::Refused)
        .unwrap();
    let text = |note: &Note| {
        note.to_string()
            .replace(&path.display().to_string(), "data")
    };
    file.notes.iter().map(text).collect()
}

#[test]
fn an_input_is_part_of_the_prompt() {
    let head = "Below is an instruction that describes a task";
    let tail = "Write a response that appropriately completes the request.";
    let row = |more: &str| {
        let text = format!(r#"[{{"instruction": " Add {{input}}. ", "output": "7 "{more}}}]"#);
        required("math", text).map(|rows| rows[0].clone())
    };
    let without = format!("{head}. {tail}\n\n### Instruction:\nAdd {{input}}.\n\n### Response:\n");
    for (more, reference) in [
        ("", Value::Null),
        (r#", "input": null, "answer": """#, Value::Null),
        (r#", "input": "", "answer": 7.0"#, "7.0".into()),
        (r#", "input": " ", "answer": "7""#, "7".into()),
    ] {
        let found = row(more).unwrap();
        let target = found.target.unwrap();
        assert_eq!((&found.text, found.pair), (&without, None), "{more}");
        assert_eq!(target["answer"], "7");
        assert_eq!(target["reference"], reference, "{more}");
    }
    let with = row(r#", "input": "3 {} and 4\n""#).unwrap();
    assert_eq!(
        with.text,
        format!(
            "{head}, paired with an input that provides further context. {tail}\n\n\
             ### Instruction:\nAdd {{input}}.\n\n### Input:\n3 {{}} and 4\n\n### Response:\n"
        )
    );
    let message = row(r#", "input": [3, 4]"#).unwrap_err();
    assert_eq!(
        message,
        "data.tsv, record 1, column `input`: expected a text or nothing, found \"[3,4]\""
    );
}

#[test]
fn what_is_not_used_of_rows_is_noted_once() {
    let rows = r#"[{"instruction": "a", "output": "b", "system": null, "answer": 1},
        {"instruction": "a", "output": "b", "system": "c", "turns": [2]},
        {"instruction": "a", "output": "b", "system": "d", "rank": ""}]"#;
    let expected = "data: fields of its rows that are not known are not used: `system`, `turns`";
    assert_eq!(notes("math", rows), [expected]);
    let rows = "index\tsentence1\tgenre\tscore\tsentence2\n0\ta\tg\t1.5\tb\n";
    assert_eq!(notes("stsb", rows), Vec::<String>::new());
    let rows = "sentence2\tsentence1\tweight\tlabel\nb\ta\t3\tentailment\n";
    let expected = "data: columns of its rows that are not known are not used: `weight`";
    assert_eq!(notes("rte", rows), [expected]);
    assert_eq!(notes("cola", "s\t1\t*\tA text.\n"), Vec::<String>::new());
}

#[test]
fn malformed_json() {
    let cases = [
        (
            "[{\"Body\": \"A\", \"Question\": \"B?\", \"Type\": \"Adition\"}]",
            "data.tsv, record 1, column `Type`: expected one of Addition, Subtraction, Multiplication, \
             Common-Division; did you mean `Addition`?, found \"Adition\"",
        ),
        (
            "[{\"Body\": \"A\", \"Type\": \"Addition\"}]",
            "data.tsv, record 1, column `Question`: expected a sentence, found no such field",
        ),
        (
            "[{\"Body\": 3, \"Question\": \"B?\", \"Type\": \"Addition\"}]",
            "data.tsv, record 1, column `Body`: expected a sentence, found \"3\"",
        ),
        ("{}", "data.tsv: expected a JSON array of objects: "),
        (
            "[{\"Body\": ",
            "data.tsv: expected a JSON array of objects: EOF",
        ),
        (
            "[{\"Body\": \"A\", \"Body\": \"B\", \"Question\": \"C?\", \"Type\": \"Addition\"}]",
            "data.tsv: expected a JSON array of objects: `Body` is there twice",
        ),
        (
            "[3]",
            "data.tsv: expected a JSON array of objects: record 1 is \"3\"",
        ),
        ("[]", "data.tsv holds no examples"),
    ];
    for (content, expected) in cases {
        let message = required("svamp", content).unwrap_err();
        assert!(message.starts_with(expected), "{message}");
    }
}

/// A description of two classes in CSV.
const MINE: &str = r#"{
    "name": "mine",
    "objective": {"classification": {"label": "kind", "classes": ["a", "b"], "metrics": ["accuracy"]}},
    "format": "csv",
    "text": "{title}: {body}",
    "train": {"file": "train.csv"},
    "dev": {"dev": {"file": "train.csv", "rows": "every fifth"}}
}"#;

#[test]
fn a_users_task_is_as_those_that_are_built_in() {
    let dir = tempfile::tempdir().unwrap();
    let mut rows = "title,body,kind,id\n".to_owned();
    for i in 0..10 {
        rows += &format!(
            "T{i},\"B, {i}\",{},{i}\n",
            if i % 3 == 0 { "b" } else { "a" }
        );
    }
    std::fs::write(dir.path().join("train.csv"), rows).unwrap();
    let task = Task::from_json(MINE).unwrap();
    let splits = task.load_dir(dir.path(), Malformed::Refused).unwrap();
    assert_eq!((splits.train.len(), splits.dev["dev"].len()), (10, 2));
    assert_eq!(splits.train[3], single("T3: B, 3", 1));
    assert_eq!(splits.dev["dev"][1], single("T9: B, 9", 1));
    let notes: Vec<_> = splits.notes.iter().map(|note| note.text.as_str()).collect();
    let expected = "columns of its rows that are not known are not used: `id`";
    assert_eq!(notes, [expected]);
}

#[test]
fn a_description_has_every_field_once_and_known() {
    let change = |from: &str, to: &str| {
        assert!(MINE.contains(from), "{from}");
        let error = Task::from_json(&MINE.replacen(from, to, 1)).unwrap_err();
        error.to_string()
    };
    for (from, to, expected) in [
        ("\"name\": \"mine\",", "", "missing field `name`"),
        ("\"name\"", "\"nmae\"", "unknown field `nmae`"),
        (
            "\"name\"",
            "\"text\": \"{a}\", \"name\"",
            "`text` is there twice",
        ),
        ("{title}", "{title", "`text`: `{` has no partner"),
        (
            "\"accuracy\"",
            "\"acuracy\"",
            "`metrics[0]`: no metric is called `acuracy`",
        ),
        (
            "classification",
            "clasification",
            "`objective`: `clasification` is not known",
        ),
        (
            "\"kind\", ",
            "\"kind\", \"weights\": [], ",
            "`weights`: unknown field `weights`",
        ),
        (
            "[\"a\", \"b\"]",
            "[\"a\"]",
            "`classes` has `a` alone; expected at least 2",
        ),
        (
            "[\"a\", \"b\"]",
            "[\"a\", \"a\"]",
            "`classes` has `a` twice",
        ),
        (
            "every fifth",
            "every sixth",
            "unknown variant `every sixth`",
        ),
        ("\"csv\"", "\"csvs\"", "did you mean `csv`?"),
    ] {
        let error = change(from, to);
        assert!(error.contains(expected), "{error}");
        assert!(
            error.starts_with("not the description of a task: "),
            "{error}"
        );
    }
    for task in TASKS.iter() {
        assert!(!task.about.is_empty(), "{}", task.name);
    }
}

/// A number may be written as such where the format knows numbers.
#[test]
fn labels_of_json_may_be_numbers() {
    let task = Task::from_json(
        r#"{"name": "n", "objective": {"regression": {"label": "y"}}, "format": "jsonl",
            "text": "{x}", "train": {"file": "a"}}"#,
    );
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    let read = |text: &str| {
        std::fs::write(&path, text).unwrap();
        let file = task
            .as_ref()
            .unwrap()
            .load(&[&path], Labels::Optional, Malformed::Refused);
        file.map_err(|error| error.to_string())
            .map(|file| file.examples)
    };
    let rows =
        "{\"x\": \"a\", \"y\": -2}\n{\"x\": \"b\", \"y\": \"0.25\"}\n{\"x\": \"c\", \"y\": null}\n";
    let targets: Vec<_> = read(rows)
        .unwrap()
        .into_iter()
        .map(|row| row.target)
        .collect();
    assert_eq!(targets, [Some((-2.0).into()), Some(0.25.into()), None]);
    for odd in ["[1]", "\"NaN\"", "true", "1e99"] {
        let error = read(&format!("{{\"x\": \"a\", \"y\": {odd}}}")).unwrap_err();
        assert!(
            error.contains("line 1, column `y`: expected a finite number, found"),
            "{error}"
        );
    }
}

proptest! {
    /// Whatever the bytes, loading answers, and what it accepts has as many examples as lines.
    #[test]
    fn no_bytes_make_it_panic(
        pieces in prop::collection::vec(
            prop::sample::select(vec![
                &b"\t"[..], b"\n", b"\r\n", b"0", b"1", b"entailment", b"sentence", b"sentence1", b"label",
                b"question1", b"\xef\xbb\xbf", b"\xff", b"\0", b"\"", b"a b", b"[{", b"\xc3\xa9",
            ]),
            0..40,
        ),
    ) {
        let bytes = pieces.concat();
        for task in TASKS.iter() {
            for labels in [Labels::Required, Labels::Optional] {
                if let Ok(examples) = load(&task.name, &bytes, labels) {
                    prop_assert!(examples.len() <= bytes.split(|b| *b == b'\n').count());
                }
            }
        }
    }

    #[test]
    fn rows_survive_a_round_trip(
        rows in prop::collection::vec(("[ -~é]{0,12}[!-~]", "[!-~][ -~]{0,12}", 0..2usize), 1..20),
        crlf: bool,
        last: bool,
    ) {
        let end = if crlf { "\r\n" } else { "\n" };
        let rte = task("rte");
        let names = rte.label_names();
        let lines = rows.iter().map(|(a, b, class)| format!("7\t{a}\t{b}\t{}", names[*class]));
        let header = "index\tsentence1\tsentence2\tlabel".to_owned();
        let mut content = std::iter::once(header).chain(lines).collect::<Vec<_>>().join(end);
        if last {
            content += end;
        }
        let expected: Vec<_> = rows.iter().map(|(a, b, class)| pair(a, b, Value::from(*class))).collect();
        prop_assert_eq!(required("rte", content).unwrap(), expected);
    }
}
