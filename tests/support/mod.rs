//! A folder with tiny models and a tiny task, and the built command run in it.
#![allow(dead_code, reason = "each test file uses its part")]

mod language;

#[allow(unused_imports, reason = "each test file uses its part")]
pub use language::{encoder_decoder, language_model};

use std::{
    fmt::Write,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::{Value, json};
use tempfile::TempDir;

/// What finetune is always told: the tiny task, in batches of 8, so that an epoch has 6 steps.
pub const TINY: &str = "--task cola --data cola --batch-size 8 --rank 4 --lr 5e-3";

const WORDS: [&str; 16] = [
    "the", "a", "cat", "dog", "sat", "saw", "ran", "him", "her", "she", "he", "mat", "on", "under",
    "old", "and",
];

/// A folder in which the command runs: `bert`, `roberta` and `deberta` are models, `cola` is a task's
/// data.
pub struct Scene(TempDir);

/// What a command did.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Scene {
    pub fn new() -> Self {
        let scene = Self(tempfile::tempdir().unwrap());
        scene.model("bert", "bert_cls-0", &word_piece());
        scene.model("roberta", "roberta_cls-0", &word_level());
        scene.model("deberta", "deberta_v3_cls-0", &word_piece());
        scene.write("cola/train.tsv", rows(48));
        scene.write("cola/dev.tsv", rows(17));
        scene
    }

    pub fn model(&self, name: &str, fixture: &str, tokenizer: &Value) {
        let parity = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity");
        for file in ["config.json", "model.safetensors"] {
            let bytes = fs::read(parity.join(fixture).join(file)).unwrap();
            self.write(&format!("{name}/{file}"), bytes);
        }
        self.write(&format!("{name}/tokenizer.json"), tokenizer.to_string());
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file, in folders that are made.
    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    pub fn json(&self, name: &str) -> Value {
        serde_json::from_slice(&self.read(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// The objects of a file with one on each line. A last line without an end is left out.
    pub fn lines(&self, name: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.path(name)).unwrap_or_default();
        text.split_inclusive('\n')
            .filter(|line| line.ends_with('\n'))
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// Step and loss, to the last bit, of a run's log.
    pub fn losses(&self, output: &str) -> Vec<(u64, u64)> {
        let rows = self.lines(&format!("{output}/train.jsonl"));
        rows.iter()
            .map(|row| {
                (
                    row["step"].as_u64().unwrap(),
                    row["loss"].as_f64().unwrap().to_bits(),
                )
            })
            .collect()
    }

    /// The command with arguments that are separated by spaces.
    pub fn command(&self, args: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ailora"));
        command
            .args(args.split_whitespace())
            .current_dir(self.0.path())
            .env("AILORA_CACHE", self.path("cache"))
            .env("HF_HOME", self.path("hub"))
            .env("HF_HUB_OFFLINE", "1")
            .stdin(Stdio::null());
        command
    }

    pub fn run(&self, args: &str) -> Ran {
        let output = self.command(args).output().unwrap();
        Ran {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Runs what must succeed, and returns what it prints.
    pub fn ok(&self, args: &str) -> String {
        let ran = self.run(args);
        assert_eq!(ran.code, Some(0), "{args}\n{}", ran.stderr);
        ran.stdout
    }

    /// Runs what must be refused with a message that has all of `parts`.
    pub fn refused(&self, args: &str, parts: &[&str]) {
        self.fails(1, args, parts);
    }

    /// Runs what must fail with an exit code and a message that has all of `parts`.
    pub fn fails(&self, code: i32, args: &str, parts: &[&str]) {
        let ran = self.run(args);
        let message = ran.stderr;
        assert_eq!(ran.code, Some(code), "{args}\n{message}");
        assert!(message.contains("error: "), "{args}\n{message}");
        assert!(!message.contains("panicked"), "{args}\n{message}");
        for part in parts {
            assert!(message.contains(part), "{args}\nno `{part}` in\n{message}");
        }
    }

    /// Fine-tunes the tiny BERT with more arguments.
    pub fn finetune(&self, output: &str, more: &str) -> String {
        self.ok(&format!(
            "finetune --model bert {TINY} --output {output} {more}"
        ))
    }
}

/// Rows of CoLA, of different lengths and both labels.
fn rows(count: usize) -> String {
    let mut text = String::new();
    for row in 0..count {
        let words: Vec<&str> = (0..3 + row % 9)
            .map(|place| WORDS[(row * row + 5 * place + row * place) % WORDS.len()])
            .collect();
        let label = u8::from(words.contains(&"cat") || row % 4 == 0);
        writeln!(text, "t{row}\t{label}\t\t{}.", words.join(" ")).unwrap();
    }
    text
}

fn numbered(tokens: impl IntoIterator<Item = String>) -> Value {
    tokens
        .into_iter()
        .enumerate()
        .map(|(id, token)| (token, Value::from(id)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// The special tokens around one text and two, as a tokenizer file says it.
fn template(start: (&str, u32), end: (&str, u32), pair: u32) -> Value {
    let special = |token: &str, kind: u32| json!({"SpecialToken": {"id": token, "type_id": kind}});
    let text = |name: &str, kind: u32| json!({"Sequence": {"id": name, "type_id": kind}});
    let entry = |(token, id): (&str, u32)| json!({"id": token, "ids": [id], "tokens": [token]});
    json!({
        "type": "TemplateProcessing",
        "single": [special(start.0, 0), text("A", 0), special(end.0, 0)],
        "pair": [
            special(start.0, 0), text("A", 0), special(end.0, 0), text("B", pair),
            special(end.0, pair),
        ],
        "special_tokens": {start.0: entry(start), end.0: entry(end)},
    })
}

fn tokenizer(model: Value, template: Value) -> Value {
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [],
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": template,
        "decoder": null,
        "model": model,
    })
}

fn word_piece() -> Value {
    let special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "."].map(str::to_owned);
    let letters = ('a'..='z').flat_map(|letter| [letter.to_string(), format!("##{letter}")]);
    let words = WORDS
        .iter()
        .filter(|word| word.len() > 1)
        .map(|&word| word.to_owned());
    let model = json!({
        "type": "WordPiece",
        "unk_token": "[UNK]",
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
        "vocab": numbered(special.into_iter().chain(letters).chain(words)),
    });
    tokenizer(model, template(("[CLS]", 2), ("[SEP]", 3), 1))
}

pub fn word_level() -> Value {
    let special = ["<s>", "<pad>", "</s>", "<unk>", "."];
    let model = json!({
        "type": "WordLevel",
        "unk_token": "<unk>",
        "vocab": numbered(special.iter().chain(&WORDS).map(|&word| word.to_owned())),
    });
    tokenizer(model, template(("<s>", 0), ("</s>", 2), 0))
}
