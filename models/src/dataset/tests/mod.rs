mod inference;
mod malformed;

use std::fs;

use tempfile::TempDir;

use super::*;
use crate::task::Labels;

/// Files in a folder, and a data set of them.
pub(super) struct Given {
    pub folder: TempDir,
    dataset: Dataset,
}

impl Given {
    pub fn new(name: &str, bytes: &str) -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            dataset: Dataset {
                hold_out: Some(0.0),
                ..Dataset::default()
            },
        }
        .train(name, bytes)
    }

    fn write(&self, name: &str, bytes: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    fn train(mut self, name: &str, bytes: &str) -> Self {
        let path = self.write(name, bytes);
        self.dataset.train.push(path);
        self
    }

    fn valid(mut self, name: &str, bytes: &str) -> Self {
        let path = self.write(name, bytes);
        self.dataset.valid.push(path);
        self
    }

    pub fn with(mut self, change: impl FnOnce(&mut Dataset)) -> Self {
        change(&mut self.dataset);
        self
    }

    fn understood(&self) -> Understood {
        self.dataset.understand().unwrap()
    }

    fn task(&self) -> Task {
        self.dataset.task(&self.understood(), 0).unwrap()
    }

    /// The name of the objective, and its options.
    fn objective(&self) -> (String, Value) {
        let objective = self.understood().description["objective"].clone();
        let choice: Choice = serde_json::from_value(objective).unwrap();
        (choice.name, choice.options)
    }

    pub fn error(&self) -> String {
        let folder = format!("{}/", self.folder.path().display());
        let error = match self.dataset.understand() {
            Err(error) => error.to_string(),
            Ok(understood) => match self.dataset.task(&understood, 0) {
                Err(error) => error.to_string(),
                Ok(task) => {
                    let read = task.load_dir("".as_ref(), self.dataset.malformed());
                    read.unwrap_err().to_string()
                }
            },
        };
        error.replace(&folder, "")
    }

    /// The texts and targets of the training rows.
    fn rows(&self) -> Vec<(String, Value)> {
        let splits = self.task().load_dir("".as_ref(), self.dataset.malformed());
        let examples = splits.unwrap().train.into_iter();
        let row = |example: crate::data::Example| (example.text, example.target.unwrap());
        examples.map(row).collect()
    }
}

#[test]
fn words_are_no_missing_cells() {
    let given = Given::new("a.csv", "text,label\nNA,neg\nNone,pos\nnull,neg\n");
    assert_eq!(
        given.rows(),
        [
            ("NA".into(), json!(0)),
            ("None".into(), json!(1)),
            ("null".into(), json!(0))
        ]
    );
    let given = Given::new("a.csv", "text,label\nNA,neg\nNone,pos\nnull,\n");
    let error = given.error();
    assert!(
        error.contains("a.csv, line 4, column `label`: expected one of neg, pos, found nothing"),
        "{error}"
    );
}

#[test]
fn a_blank_cell_changes_no_label() {
    let given =
        Given::new("a.csv", "text,label\na,1\nb,\nc,2\n").valid("b.csv", "text,label\nd,1\ne,2\n");
    let (name, options) = given.objective();
    assert_eq!(
        (&*name, &options["classes"]),
        ("classification", &json!(["1", "2"]))
    );
    let error = given.error();
    assert!(error.contains("a.csv, line 3, column `label`"), "{error}");
    let given = given.with(|dataset| dataset.skip_malformed = true);
    let splits = given
        .task()
        .load_dir("".as_ref(), Malformed::Skipped)
        .unwrap();
    assert_eq!((splits.train.len(), splits.dev["valid"].len()), (2, 2));
    let note = splits.notes[0].text.clone();
    assert!(
        note.starts_with("skipped 1 row that cannot be used, the first:"),
        "{note}"
    );
    let given = Given::new("a.csv", "text,label\na,007\nb,8\n");
    assert_eq!(given.objective().1["classes"], json!(["007", "8"]));
}

#[test]
fn no_shard_fixes_what_a_field_is() {
    let [a, b] = [
        "{\"text\": \"a\", \"input\": null}\n",
        "{\"text\": \"b\", \"input\": \"x\"}\n",
    ];
    let third = "{\"text\": \"c\"}\n";
    for shards in [[a, b, third], [third, b, a]] {
        let given = Given::new("0.jsonl", shards[0])
            .train("1.jsonl", shards[1])
            .train("2.jsonl", shards[2])
            .with(|dataset| {
                dataset.text = Some("{text}".into());
                dataset.objective = Some(Choice::of("text"));
            });
        let survey = given.understood().survey;
        assert_eq!((survey.rows, survey.columns["input"].kinds.texts), (3, 1));
        assert_eq!(survey.empty(&survey.columns["input"]), 2);
    }
}

#[test]
fn bad_rows_are_errors_or_counted() {
    let lines = "{\"text\": \"a\", \"label\": \"x\"}\n{\"text\": \n{\"text\": \"c\", \"label\": \"y\"}\n\
                 {\"text\": \"d\", \"label\": \"x\"}\n";
    let given = Given::new("a.jsonl", lines);
    let error = given.error();
    assert!(
        error.starts_with("a.jsonl: expected a JSON object on line 2"),
        "{error}"
    );
    let given = given.with(|dataset| dataset.skip_malformed = true);
    assert_eq!(given.rows().len(), 3);
    assert_eq!(given.understood().survey.malformed, 1);
}

#[test]
fn classes_are_sorted_and_the_same_everywhere() {
    let given =
        Given::new("a.csv", "text,label\nu,c\nv,a\nw,b\n").valid("b.csv", "text,label\nx,b\ny,c\n");
    assert_eq!(given.objective().1["classes"], json!(["a", "b", "c"]));
    let dev = given
        .task()
        .load_dir("".as_ref(), Malformed::Refused)
        .unwrap()
        .dev;
    let targets: Vec<Value> = dev["valid"]
        .iter()
        .map(|row| row.target.clone().unwrap())
        .collect();
    assert_eq!(targets, [1, 2]);
    let given = Given::new("a.csv", "text,label\nu,10\nv,9\nw,2\n");
    assert_eq!(given.objective().1["classes"], json!(["2", "9", "10"]));
    assert_eq!(
        given.understood().description,
        given.understood().description
    );
}

#[test]
fn so_many_rows_are_held_out_as_wanted_and_never_trained_on() {
    let rows: String = (0..200).map(|i| format!("t{i},{}\n", i % 3)).collect();
    let given = Given::new("a.csv", &format!("text,label\n{rows}"));
    for (share, held_out) in [(None, 10), (Some(0.25), 50), (Some(0.001), 1)] {
        let dataset = Dataset {
            hold_out: share,
            ..given.dataset.clone()
        };
        let understood = dataset.understand().unwrap();
        let splits = |seed| {
            let task = dataset.task(&understood, seed).unwrap();
            task.load_dir("".as_ref(), Malformed::Refused).unwrap()
        };
        let found = splits(1);
        assert_eq!(
            (found.train.len(), found.dev["valid"].len()),
            (200 - held_out, held_out)
        );
        let texts = |rows: &[crate::data::Example]| {
            rows.iter()
                .map(|row| row.text.clone())
                .collect::<std::collections::BTreeSet<_>>()
        };
        let (train, valid) = (texts(&found.train), texts(&found.dev["valid"]));
        assert!(train.is_disjoint(&valid) && train.len() + valid.len() == 200);
        assert_eq!(found, splits(1));
        assert_ne!(found, splits(2));
    }
    for share in [1.0, -0.5, f64::NAN] {
        let error = given.with_share(share);
        assert!(
            error.contains("expected a number above 0 and below 1"),
            "{error}"
        );
    }
}

impl Given {
    fn with_share(&self, share: f64) -> String {
        let dataset = Dataset {
            hold_out: Some(share),
            ..self.dataset.clone()
        };
        dataset.task(&self.understood(), 0).unwrap_err().to_string()
    }
}

#[test]
fn rows_to_predict_may_be_empty_and_unlabelled() {
    let given = Given::new("a.csv", "text,label\na,x\nb,y\n");
    let task = given.task();
    let path = given.write("new.csv", "text\n\nc\n\"\"\n");
    let file = task
        .load(&[path], Labels::Optional, Malformed::Refused)
        .unwrap();
    let texts: Vec<&str> = file.examples.iter().map(|row| &*row.text).collect();
    assert_eq!(texts, ["", "c", ""]);
}

#[test]
fn what_an_adapter_records_reads_the_same_rows() {
    let given = Given::new("a.csv", "id,text,label\n1,a,x\n2,b,y\n");
    let description = given.understood().description;
    let again: Value = serde_json::from_str(&description.to_string()).unwrap();
    let task = Task::own(&again).unwrap();
    let file = task
        .load(&given.dataset.train, Labels::Required, Malformed::Refused)
        .unwrap();
    assert_eq!((file.examples.len(), file.notes.len()), (2, 1));
    assert_eq!(task.label_names(), ["x", "y"]);
    // Files may name their columns otherwise.
    let renamed = Dataset {
        text: Some("body".into()),
        ..Dataset::default()
    };
    let path = given.write("b.csv", "body,label\nc,y\n");
    let task = renamed.changed(task).unwrap();
    let file = task
        .load(&[path], Labels::Required, Malformed::Refused)
        .unwrap();
    assert_eq!(file.examples[0].text, "c");
    // And what is learned of them may have other options.
    let prompts = Given::new("a.jsonl", "{\"prompt\": \"a\", \"completion\": \" b\"}\n").task();
    let all = Dataset {
        learn: Some(Learn::All),
        ..Dataset::default()
    };
    let changed = all.changed(prompts).unwrap().objective;
    assert!(format!("{changed:?}").contains("learn: All"), "{changed:?}");
    let error = all.changed(task.clone()).unwrap_err().to_string();
    assert!(
        error.contains("--learn is for chats, and prompts with answers"),
        "{error}"
    );
    let other = Dataset {
        label: vec!["n".into(), "m".into()],
        ..Dataset::default()
    };
    let error = other.changed(task).unwrap_err().to_string();
    assert!(error.contains("leave them out"), "{error}");
}
