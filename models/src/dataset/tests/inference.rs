//! What is understood of columns.

use serde_json::{Value, json};

use super::{super::*, Given};

#[test]
fn what_is_learned_is_known_by_the_values() {
    let objective = |labels: &[&str]| {
        let rows = labels.iter().map(|label| format!("some text,{label}\n"));
        Given::new(
            "a.csv",
            &format!("text,label\n{}", rows.collect::<String>()),
        )
        .objective()
        .0
    };
    assert_eq!(objective(&["0", "1", "2"]), "classification");
    assert_eq!(objective(&["1", "2", "3", "4", "5"]), "classification");
    assert_eq!(objective(&["0.0", "2.5", "5.0"]), "regression");
    assert_eq!(objective(&["1.0", "2.0"]), "regression");
    assert_eq!(objective(&["1", "2.5"]), "regression");
    assert_eq!(objective(&["nan", "inf"]), "classification");
    let jsonl = |labels: &[&str]| {
        let rows = labels
            .iter()
            .map(|label| format!("{{\"text\": \"a\", \"label\": {label}}}\n"));
        Given::new("a.jsonl", &rows.collect::<String>())
            .objective()
            .0
    };
    assert_eq!(jsonl(&["[\"a\", \"b\"]", "[]", "[\"a\"]"]), "multilabel");
    assert_eq!(jsonl(&["[0.5, 1.0]", "[0.25, 2.0]"]), "regression");
    assert_eq!(jsonl(&["true", "false"]), "classification");
    let given = Given::new("a.csv", "text,x,y\na,0,1\nb,1,0\n");
    let labels = |dataset: &mut Dataset| dataset.label = vec!["x".into(), "y".into()];
    assert_eq!(given.with(labels).objective().0, "multilabel");
    let given = Given::new("a.csv", "text,x,y\na,0.5,1\nb,1,0\n");
    assert_eq!(given.with(labels).objective().0, "regression");
    let asked = Given::new("a.csv", "text,label\na,1\nb,2\n")
        .with(|dataset| dataset.objective = Some(Choice::of("regression")));
    assert_eq!(asked.objective().0, "regression");
}

#[test]
fn language_data_are_known_by_their_fields() {
    for (line, name, text) in [
        (
            "{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}]}",
            "chat",
            json!(""),
        ),
        (
            "{\"conversations\": [{\"from\": \"human\", \"value\": \"x\"}]}",
            "chat",
            json!(""),
        ),
        (
            "{\"prompt\": \"a\", \"completion\": \"b\"}",
            "causal",
            json!("{prompt}"),
        ),
        (
            "{\"question\": \"a\", \"answer\": \"b\"}",
            "causal",
            json!("{question}\n"),
        ),
        ("{\"text\": \"a\"}", "text", json!("{text}")),
    ] {
        let understood = Given::new("a.jsonl", line).infer();
        assert_eq!(
            (&*understood.objective.name, understood.text),
            (name, text),
            "{line}"
        );
    }
    let alpaca = "{\"instruction\": \"a\", \"input\": \"\", \"output\": \"b\"}\n\
                  {\"instruction\": \"c\", \"input\": \"d\", \"output\": \"e\"}\n";
    let given = Given::new("a.jsonl", alpaca);
    let rows = given.rows();
    assert!(
        rows[0]
            .0
            .ends_with("request.\n\n### Instruction:\na\n\n### Response:\n")
    );
    assert!(rows[1].0.ends_with("### Input:\nd\n\n### Response:\n"));
    assert_eq!(rows[1].1, "e");
}

impl Given {
    fn infer(&self) -> infer::Inferred {
        let mut survey = Survey::default();
        for path in &self.dataset.train {
            let mut source = Source::open(path, None).unwrap();
            let auto = Choice::of("auto").make("format", FORMATS).unwrap();
            auto.read(&mut source, &mut survey).unwrap();
        }
        infer::infer(&self.dataset, &survey).unwrap()
    }
}

#[test]
fn what_cannot_be_told_is_asked_for() {
    for (name, bytes, expected) in [
        (
            "a.csv",
            "body,head,label\na,b,x\nc,d,y\n",
            "which column has the text cannot be told from their names (body, head, label); say so with --text COLUMN",
        ),
        (
            "a.csv",
            "text,mood\na,x\nb,y\n",
            "which column has the label cannot be told from their names (text, mood); say so with --label COLUMN",
        ),
        (
            "a.csv",
            "text,label\na,x\nb,x\n",
            "column `label`: expected at least 2 classes, of which one can be learned, found only x (2)",
        ),
        (
            "a.csv",
            "text,label\na,\nb,\n",
            "column `label`: expected the names of classes, found nothing in any row",
        ),
        ("a.csv", "text,label\n", "a.csv holds no examples"),
        ("a.csv", "", "a.csv holds no examples"),
        (
            "a.jsonl",
            "{\"text\": \"a\", \"label\": {\"x\": 1}}",
            "column `label`: expected classes, or numbers in every row",
        ),
    ] {
        let error = Given::new(name, bytes).error();
        assert!(error.contains(expected), "{error}");
    }
    let given = Given::new("a.csv", "text,label\na,x\nb,y\n");
    let error = given
        .with(|dataset| dataset.label = vec!["lable".into()])
        .error();
    assert!(
        error.contains(
            "--label: there is no column `lable`; there are text, label; did you mean `label`?"
        ),
        "{error}"
    );
    let many: String = (0..1500).map(|i| format!("t,class {i}\n")).collect();
    let error = Given::new("a.csv", &format!("text,label\n{many}")).error();
    assert!(
        error.contains("expected at most 1000 classes of short names, or numbers and"),
        "{error}"
    );
}

#[test]
fn names_are_known_in_any_case_and_others_are_not_passed_over() {
    let given = Given::new("a.csv", "Id,Review,Sentiment\n1,a,x\n2,b,y\n");
    assert_eq!(given.understood().description["text"], "{Review}");
    assert_eq!(given.objective().1["label"], "Sentiment");
    // A third text changes what a prompt is.
    let lines = "{\"instruction\": \"a\", \"context\": \"b\", \"response\": \"c\"}\n";
    let given = Given::new("a.jsonl", lines);
    let error = given.error();
    assert!(error.contains("which column has the"), "{error}");
    let given = given.with(|dataset| {
        dataset.objective = Some(Choice::of("causal"));
        dataset.text = Some("{context}\n{instruction}\n".into());
        dataset.label = vec!["response".into()];
    });
    assert_eq!(given.rows(), [("b\na\n".to_owned(), json!("c"))]);
    // Cells of another separator are no column.
    let error = Given::new("a.csv", "text;label\na;x\nb;y\n").error();
    assert!(
        error.contains("between them on line 1") && error.contains("`text;label`"),
        "{error}"
    );
}

#[test]
fn labels_that_are_no_classes_are_refused() {
    let jsonl = |labels: &[&str]| {
        let rows = labels
            .iter()
            .map(|label| format!("{{\"text\": \"a\", \"label\": {label}}}\n"));
        Given::new("a.jsonl", &rows.collect::<String>())
    };
    let error = jsonl(&["[0, 1, 0]", "[1, 0, 0]"]).error();
    assert!(error.contains("lists that name each class once"), "{error}");
    for labels in [["0.5", "\"nan\""], ["\"1.5\"", "\"x\""]] {
        let error = jsonl(&labels).error();
        assert!(error.contains("numbers in every row"), "{error}");
    }
    let error = jsonl(&["[0.5, 1.5]", "[0.5]"]).error();
    assert!(
        error.contains("as many numbers in every row, found lists of 1 to 2"),
        "{error}"
    );
    let (name, options) = jsonl(&["[0.5, 1.5]", "[0.25, 2.0]"]).objective();
    assert_eq!((&*name, &options["outputs"]), ("regression", &json!(2)));
    let names: String = (0..12).map(|i| format!("t,answer {i}\n")).collect();
    let error = Given::new("a.csv", &format!("text,target\n{names}")).error();
    assert!(
        error.contains("found 12 classes of one row each"),
        "{error}"
    );
    let separated = Given::new("a.csv", "text,label\na,x;y\nb,y\nc,\"z; x\"\n").with(|dataset| {
        let objective = json!({"multilabel": {"separator": ";"}});
        dataset.objective = serde_json::from_value(objective).unwrap();
    });
    assert_eq!(separated.objective().1["classes"], json!(["x", "y", "z"]));
    let error = Given::new("a.csv", "text,label\na,x\n")
        .with(|dataset| dataset.objective = Some(Choice::of("clasification")))
        .error();
    assert!(error.contains("did you mean `classification`?"), "{error}");
}

#[test]
fn other_texts_are_named_or_asked_about() {
    let given = Given::new("a.csv", "id,text,keyword,label\n1,a,k,x\n2,b,k,y\n");
    let notes = given
        .task()
        .load_dir("".as_ref(), Malformed::Refused)
        .unwrap()
        .notes;
    assert!(
        notes[0].text.contains("not used: `id`, `keyword`"),
        "{notes:?}"
    );
    let given = Given::new(
        "a.tsv",
        "index\tquestion\tsentence\tlabel\n0\ta\tb\tx\n1\tc\td\ty\n",
    );
    let description = given.understood().description;
    assert_eq!(
        (&description["text"], &description["pair"]),
        (&json!("{question}"), &json!("{sentence}"))
    );
    for line in [
        "{\"instruction\": \"a\", \"context\": \"b\", \"output\": \"c\"}",
        "{\"instruction\": \"a\", \"input\": \"\", \"output\": \"c\", \"history\": [[\"a\", \"b\"]]}",
        "{\"question\": \"a\", \"context\": \"b\", \"answer\": \"c\"}",
    ] {
        let error = Given::new("a.jsonl", line).error();
        assert!(error.contains("cannot be told from their names"), "{error}");
    }
    // One column of a template may be empty.
    let given = Given::new("a.csv", "title,body,label\n,a,x\nt,b,y\n,,y\n")
        .with(|dataset| dataset.text = Some("{title}: {body}".into()));
    let error = given.error();
    assert!(error.contains("a.csv, line 4, column `title`"), "{error}");
}

#[test]
fn chats_are_known_in_every_form() {
    let chat = "[{\\\"role\\\": \\\"user\\\", \\\"content\\\": \\\"x\\\"}]";
    let text = format!("{{\"messages\": \"{chat}\"}}");
    assert_eq!(Given::new("a.jsonl", &text).infer().objective.name, "chat");
    let message = "[{\"role\": \"user\", \"content\": \"x\"}]";
    let pair = format!("{{\"prompt\": {message}, \"completion\": {message}}}");
    let options = Given::new("a.jsonl", &pair).infer().objective.options;
    assert_eq!(
        options,
        json!({"prompt": "{prompt}", "answer": "completion"})
    );
    let asked = |options: Value| {
        let objective = json!({"chat": options});
        move |dataset: &mut Dataset| {
            dataset.objective = serde_json::from_value(objective).unwrap();
        }
    };
    let named = Given::new("a.jsonl", &format!("{{\"dialog\": {message}}}"))
        .with(asked(json!({"messages": "dialog"})));
    assert_eq!(named.infer().objective.options["messages"], "dialog");
    // Between a prompt and its answer there is nothing but the template.
    let given =
        Given::new("a.jsonl", "{\"question\": \"a\", \"answer\": \"b\"}").with(asked(json!({})));
    assert_eq!(given.infer().objective.options["prompt"], "{question}");
}
