//! What is learned of texts that a model writes, and what they are scored against.

mod support;

use std::{path::Path, sync::Arc};

use ailora_graph::{Trainable, ir::Draw};
use ailora_models::{
    batch::{Batch, Buckets, Encoded, Plan, Shape},
    choice::Choice,
    data::Example,
    generate::{Settings, Strategy},
    head::Head,
    lengths::Cut,
    objective::{HeldOut, OBJECTIVES, Objective, Predictor, written},
    pretrained::Pretrained,
    task::{Labels, Malformed, Task},
    tokenizer::{Encoding, Tokenizer},
};
use ailora_runtime::engine::Engine;
use serde_json::{Value, json};
use support::{eval, fixtures};

fn objective(name: &str, options: Value) -> Arc<dyn Objective> {
    let name = name.to_owned();
    Choice { name, options }
        .make("objective", OBJECTIVES)
        .unwrap()
}

fn summaries(options: Value) -> Arc<dyn Objective> {
    let mut all = json!({"target": "summary", "metrics": ["rouge1"]});
    all.as_object_mut()
        .unwrap()
        .extend(options.as_object().unwrap().clone());
    objective("seq2seq", all)
}

fn bart(objective: &Arc<dyn Objective>) -> Pretrained {
    Pretrained::open(&fixtures().join("parity/bart_generate-0"), objective.head()).unwrap()
}

/// A row of seeded tokens, with a text to write.
fn row(number: usize, len: usize, target: &[u32]) -> Encoded {
    let token = |i: usize| ((number * 31 + i * 17 + 7) % 90 + 3) as u32;
    Encoded {
        encoding: Encoding {
            ids: (0..len).map(token).collect(),
            type_ids: vec![0; len],
            target: target.to_vec(),
            ..Encoding::default()
        },
        target: Some(json!("a text")),
        part: None,
    }
}

fn batch(objective: &Arc<dyn Objective>, rows: &[Encoded], len: usize) -> Batch {
    let indices = (0..rows.len()).collect();
    let mut batch = Batch::new(&Plan { len, indices }, rows, 1).unwrap();
    let rows: Vec<&Encoded> = rows.iter().collect();
    objective
        .prepare(&mut batch, &rows, Draw::default())
        .unwrap();
    batch
}

/// A token for each of `words`; `<s>` and `</s>` around texts, if `ends`.
fn tokenizer(words: usize, ends: bool) -> Tokenizer {
    let special = ["<s>", "<pad>", "</s>", "<unk>"].map(str::to_owned);
    let words = (special.len()..words).map(|id| format!("w{id}"));
    let vocabulary: serde_json::Map<_, _> = special
        .into_iter()
        .chain(words)
        .zip(0..)
        .map(|(word, id)| (word, json!(id)))
        .collect();
    let token = |token: &str| json!({"SpecialToken": {"id": token, "type_id": 0}});
    let known = |token: &str, id: u32| json!({"id": token, "ids": [id], "tokens": [token]});
    let text = json!({"Sequence": {"id": "A", "type_id": 0}});
    let file = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": null, "pre_tokenizer": {"type": "WhitespaceSplit"}, "decoder": null,
        "post_processor": ends.then(|| json!({
            "type": "TemplateProcessing",
            "single": [token("<s>"), text, token("</s>")],
            "pair": [token("<s>"), text, token("</s>"), {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"<s>": known("<s>", 0), "</s>": known("</s>", 2)},
        })),
        "model": {"type": "WordLevel", "unk_token": "<unk>", "vocab": vocabulary},
    });
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("tokenizer.json"), file.to_string()).unwrap();
    Tokenizer::from_dir(dir.path()).unwrap()
}

fn words(numbers: impl IntoIterator<Item = usize>) -> String {
    let words = numbers.into_iter().map(|id| format!("w{id}"));
    words.collect::<Vec<_>>().join(" ")
}

fn example(text: String, target: Value) -> Example {
    Example {
        target: Some(target),
        ..Example::of(text)
    }
}

/// Start is `</s>` and padding 1; what is behind a text is no target, and no -100 is an input.
#[test]
fn the_decoder_reads_the_labels_shifted_right() {
    let objective = summaries(json!({"max_target_length": 4}));
    let base = bart(&objective);
    let rows = [row(0, 5, &[0, 9, 8, 2]), row(1, 3, &[0, 7, 2])];
    let batch = batch(&objective, &rows, 5);
    let labels = batch.targets.inputs.ids("labels").unwrap();
    assert_eq!(labels, [0, 9, 8, 2, 0, 7, 2, -100]);
    let inputs = base.model.inputs(&batch);
    let read = inputs.ids("decoder_input_ids").unwrap();
    assert_eq!(read, [2, 0, 9, 8, 2, 0, 7, 2]);
    assert_eq!(batch.targets.count, 4 + 3);
}

/// The mean over the tokens of all targets, however they are batched, beside the float64 interpreter.
#[test]
fn the_loss_of_written_texts_is_the_mean_over_their_tokens() {
    let objective = summaries(json!({"max_target_length": 8}));
    let base = bart(&objective);
    let rows = [
        row(0, 9, &[0, 9, 8, 30, 31, 2]),
        row(1, 3, &[0, 7, 2]),
        row(2, 5, &[0, 60, 61, 62, 63, 64, 2]),
    ];
    let (mut sum, mut count) = (0.0, 0);
    for row in &rows {
        let (len, target) = (row.tokens(), &row.encoding.target);
        let batch = batch(&objective, std::slice::from_ref(row), len);
        let shape = Shape {
            target_len: batch.targets.text_len,
            ..Shape::new(1, len)
        };
        let program = base.model.program(shape, false, false).unwrap();
        let found = eval(&program, &base.weights, &base.model.inputs(&batch));
        let (_, logits) = &found[0];
        let vocabulary = logits.len() / shape.target_len;
        for (logits, &token) in logits.chunks(vocabulary).zip(target) {
            let total: f64 = logits.iter().map(|x| x.exp()).sum();
            sum += total.ln() - logits[token as usize];
            count += 1;
        }
    }
    let expected = sum / f64::from(count);
    let lengths: Vec<usize> = rows.iter().map(Encoded::tokens).collect();
    for batch_size in 1..=3 {
        let (model, sites) = (base.model.clone(), Vec::new());
        let mut predictor = Predictor::new(model, objective.clone(), sites, Trainable::Adapters, 1);
        let mut engine = Engine::new(base.weights.clone());
        let buckets = Buckets::choose(&lengths, 32, 2).unwrap();
        let split = HeldOut::new("dev", rows.to_vec(), &*objective, &buckets, batch_size, 0);
        let scores = objective
            .evaluate(&mut predictor, &mut engine, &split.unwrap())
            .unwrap();
        let loss = scores["loss"];
        assert!((loss - expected).abs() < 1e-5, "{loss} != {expected}");
        assert!(!scores.contains_key("rouge1"));
    }
}

/// Tokens of a text come before its end, which is there once, whether the tokenizer puts it there or not.
#[test]
fn targets_are_cut_before_their_end_and_scored_whole() {
    let objective = summaries(json!({"max_target_length": 50}));
    let base = bart(&objective);
    let long = words(4..204);
    let rows = [
        example(words(4..44), json!([long, "w5"])),
        example(words([4]), json!(words([7, 8]))),
    ];
    for ends in [true, false] {
        let tokenizer = tokenizer(204, ends);
        let bound = objective.bind(base.model.config(), &tokenizer).unwrap();
        let bound = bound.unwrap();
        // The model has positions for 40.
        let encoded = bound.encode(&rows, &tokenizer, 16).unwrap();
        let [first, second] = &encoded[..] else {
            panic!("{encoded:?}")
        };
        let start: &[u32] = if ends { &[0] } else { &[] };
        let target = &first.encoding.target;
        assert_eq!(target.len(), 40);
        assert_eq!(target[..3], [start, &[4, 5, 6]].concat()[..3]);
        assert_eq!(target.iter().filter(|&&id| id == 2).count(), 1);
        assert_eq!(target.last(), Some(&2));
        assert_eq!(second.encoding.target, [start, &[7, 8, 2]].concat());
        assert!(first.encoding.cut && first.encoding.target_cut);
        assert!(!second.encoding.cut && !second.encoding.target_cut);
        let cut = Cut::of(&*bound, &encoded, 16);
        assert!(cut.is_any());
        let said = cut.to_string();
        assert!(said.contains("1 of 2 rows were cut to 16 tokens"), "{said}");
        assert!(
            said.contains("in 1 the text to write was cut to 40 tokens"),
            "{said}"
        );
        let prompts = bound.prompts(&rows, &tokenizer, 16).unwrap().unwrap();
        assert_eq!(prompts[0], first.encoding.ids);

        let targets: Vec<Option<Value>> = encoded.iter().map(|row| row.target.clone()).collect();
        let texts = [long.clone(), words([7, 8])];
        let scores = written::scores(&*bound, &texts, &targets).unwrap();
        assert_eq!(scores["rouge1"], 1.0);
        // The best of several counts, and not the first or the mean.
        let texts = ["w5".to_owned(), words([7, 8])];
        let scores = written::scores(&*bound, &texts, &targets).unwrap();
        assert_eq!(scores["rouge1"], 1.0);
        let cut = texts_of_first(50, &long);
        let scores = written::scores(&*bound, &[cut], &targets[..1]).unwrap();
        assert!((scores["rouge1"] - 0.4).abs() < 1e-12, "{scores:?}");
    }
}

fn texts_of_first(count: usize, text: &str) -> String {
    text.split(' ').take(count).collect::<Vec<_>>().join(" ")
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let refused = |name: &str, options: Value| {
        let name = name.to_owned();
        let made = Choice { name, options }.make("objective", OBJECTIVES);
        made.map(|_| ()).unwrap_err()
    };
    for (options, part) in [
        (json!({"target": []}), "names no column"),
        (json!({"target": "a", "max_target_length": 3}), "at least 4"),
        (
            json!({"target": "a", "label_smoothing": 1.0}),
            "less than 1",
        ),
        (json!({"target": "a", "metrics": ["accuracy"]}), "accuracy"),
        (json!({"target": "a", "metrics": ["rouge9"]}), "rouge9"),
        (json!({"target": "a", "beams": 3}), "beams"),
        (json!({}), "target"),
    ] {
        let error = refused("seq2seq", options);
        assert!(error.contains(part), "{error}");
    }
    let error = refused("causal", json!({"answer": "a", "reference": "b"}));
    assert!(error.contains("no `metrics`"), "{error}");
    let error = refused("causal", json!({"answer": "a", "metrics": ["mse"]}));
    assert!(error.contains("mse"), "{error}");
}

fn read(task: &Task, name: &str, text: &str) -> Result<Vec<Example>, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::write(&path, text).unwrap();
    let file = task.load(&[&path], Labels::Required, Malformed::Refused);
    let file = file.map_err(|error| error.to_string())?;
    assert_eq!(file.notes, []);
    Ok(file.examples)
}

/// A document is a text or a list of sentences; summaries are one or several.
#[test]
fn papers_have_sentences_and_several_summaries() {
    let task = Task::parse("scitldr").unwrap();
    let rows = concat!(
        r#"{"source": ["A b.", "C d."], "source_labels": [0, 1], "rouge_scores": [0.1, 0.2], "#,
        r#""paper_id": "x", "ic": true, "target": ["e", "f"]}"#,
        "\n",
        r#"{"document": "A b. C d.", "summary": "e", "id": "x"}"#,
        "\n",
        r#"{"document": "A b. C d.", "summary": "e", "id": "x", "references": ["e", "f"]}"#,
        "\n",
    );
    let rows = read(&task, "dev.jsonl", rows).unwrap();
    assert!(rows.iter().all(|row| row.text == "A b. C d."), "{rows:?}");
    let targets: Vec<Value> = rows.into_iter().map(|row| row.target.unwrap()).collect();
    assert_eq!(targets, [json!(["e", "f"]), json!("e"), json!(["e", "f"])]);
    for (row, part) in [
        (r#"{"document": "a", "target": []}"#, "`target`"),
        (r#"{"document": "a", "target": ["b", ""]}"#, "`target`"),
        (r#"{"document": "a", "target": [1]}"#, "`target`"),
        (r#"{"document": "a"}"#, "`target`"),
        (r#"{"source": ["a", 1], "summary": "b"}"#, "`source`"),
    ] {
        let error = read(&task, "dev.jsonl", row).unwrap_err();
        assert!(error.contains(part), "{row}: {error}");
    }
}

#[test]
fn a_story_is_an_article_with_highlights() {
    let task = Task::parse("cnn_dailymail").unwrap();
    let story = "(CNN) -- One\r\n\r\ntwo.\n\n@highlight\n\nThree\n\n@highlight\n\nfour\u{201d}\n";
    let rows = read(&task, "a1.story", story).unwrap();
    assert_eq!(rows[0].text, "(CNN) -- One . two.");
    assert_eq!(rows[0].target, Some(json!("Three .\nfour\u{201d}")));
    let error = read(&task, "a1.story", "One.\n").unwrap_err();
    assert!(error.contains("highlights"), "{error}");
    let error = read(&task, "a1.story", "\n@highlight\n\nThree\n").unwrap_err();
    assert!(error.contains("article"), "{error}");
}

/// The bytes of LLM-Adapters' finetune.py and evaluate.py (commit 8166572).
#[test]
fn prompts_of_llm_adapters_are_theirs_and_differ() {
    let task = Task::parse("math10k").unwrap();
    let indent = " ".repeat(16);
    let first = "Below is an instruction that describes a task. Write a response that appropriately \
                 completes the request.";
    let train = format!(
        "{first}  \n\n{indent}### Instruction:\n{indent}Q\n{indent}\n{indent}### Response:\n{indent}"
    );
    let evaluation = format!(
        "{first} \n\n{indent}### Instruction:\n{indent}Q\n\n{indent}### Response:\n{indent}"
    );
    let problem = r#"[{"instruction": "Q", "input": "", "output": "A 7", "answer": "7.0"}]"#;
    let learned = read(&task, "train.json", problem).unwrap();
    assert_eq!(learned[0].text, train);
    let evaluated = read(&task.evaluated(), "test.json", problem).unwrap();
    assert_eq!(evaluated[0].text, evaluation);
    assert_eq!(task.evaluated().prompt("Q"), evaluation);
    let other = r#"[{"instruction": "Q", "input": "I", "output": " A 7 ", "answer": "7"}]"#;
    let first = "Below is an instruction that describes a task, paired with an input that provides \
                 further context. Write a response that appropriately completes the request.";
    let train = format!(
        "{first} \n\n{indent}### Instruction:\n{indent}Q\n{indent}\n{indent}### Input:\n{indent}I\n\
         {indent}\n{indent}### Response:\n{indent}"
    );
    let evaluation = format!(
        "{first}\n\n{indent}### Instruction:\n{indent}Q\n\n{indent}### Input:\n{indent}I\n\n\
         {indent}### Response:\n{indent}"
    );
    let learned = read(&task, "train.json", other).unwrap();
    assert_eq!(learned[0].text, train);
    // What is learned is theirs, blanks and all.
    let target = learned[0].target.as_ref().unwrap();
    assert_eq!(target["answer"], " A 7 ");
    let evaluated = read(&task.evaluated(), "test.json", other).unwrap();
    assert_eq!(evaluated[0].text, evaluation);
}

#[test]
fn a_task_says_how_to_write_over_what_the_model_says() {
    let said = |name: &str| {
        let folder = Settings {
            beams: 3,
            max_new_tokens: Some(20),
            sample: true,
            length_penalty: 2.0,
            ..Settings::default()
        };
        Task::parse(name).unwrap().generation(folder, 99).unwrap()
    };
    // Sampling is off, so that temperature, top-p and top-k change nothing.
    let theirs = said("math10k");
    let four = Strategy::Beam {
        beams: 4,
        length_penalty: 2.0,
        early_stopping: false,
    };
    assert_eq!(theirs.strategy(), four);
    assert_eq!((theirs.max_new_tokens, theirs.sample), (Some(256), false));
    assert_eq!(said("math").beams, 3);
    for (name, beams, longest) in [("xsum", 8, 64), ("cnn_dailymail", 4, 160)] {
        let settings = said(name);
        let strategy = Strategy::Beam {
            beams,
            length_penalty: 1.0,
            early_stopping: true,
        };
        assert_eq!(settings.strategy(), strategy);
        let rules = settings.rules_for(strategy);
        assert_eq!(rules.no_repeat_ngram_size, 3);
        assert_eq!((rules.forced_bos, rules.forced_eos), (Some(0), vec![2]));
        // The start token counts, as in transformers.
        assert_eq!(settings.room(1, 1024, 128), Some(longest - 1));
    }
    let refused = |generation: Value| {
        let task = json!({
            "name": "own", "objective": {"seq2seq": {"target": "b"}}, "format": "jsonl", "text": "{a}",
            "generation": generation,
        });
        match Task::from_value(task) {
            Err(error) => error.to_string(),
            Ok(task) => {
                let error = task.generation(Settings::default(), 99);
                error.map(|_| ()).unwrap_err().to_string()
            }
        }
    };
    for (generation, parts) in [
        (
            json!({"num_beam": 4}),
            ["`num_beam` is not known", "did you mean `num_beams`"],
        ),
        (
            json!({"guidance_scale": 2}),
            ["`guidance_scale`", "not known"],
        ),
        (json!({"num_beams": 0}), ["task own", "`num_beams`"]),
        (
            json!({"forced_bos_token_id": 99}),
            ["task own", "`forced_bos_token_id`"],
        ),
        (
            json!({"early_stopping": "never"}),
            ["task own", "`early_stopping`"],
        ),
    ] {
        let error = refused(generation);
        for part in parts {
            assert!(error.contains(part), "{error}");
        }
    }
}

#[test]
fn files_of_tests_are_found_where_they_are() {
    let task = Task::parse("math").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str| {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "[]").unwrap();
    };
    let error = task.held_out(dir.path()).unwrap_err().to_string();
    assert!(error.contains("MultiArith.json, GSM8K.json"), "{error}");
    write("train.json");
    write("gsm8k.json");
    write("multiarith/test.json");
    write("AddSub.json");
    let found: Vec<(String, String)> = task
        .held_out(dir.path())
        .unwrap()
        .into_iter()
        .map(|split| (split.name, split.files[0].display().to_string()))
        .collect();
    let expected = [
        ("MultiArith", "multiarith/test.json"),
        ("GSM8K", "gsm8k.json"),
        ("AddSub", "AddSub.json"),
    ];
    let expected = expected.map(|(name, file)| (name.to_owned(), file.to_owned()));
    assert_eq!(found, expected);
    // Which of two is meant is not guessed.
    write("GSM8K/test.json");
    let error = task.held_out(dir.path()).unwrap_err().to_string();
    for part in ["test set GSM8K", "gsm8k.json, GSM8K/test.json", "leave one"] {
        assert!(error.contains(part), "{error}");
    }
    assert_eq!(task.dev.len(), 0);
    assert!(!task.files().contains(Path::new("gsm8k.json")));
}

/// Whether a problem's answer is a number or a letter, and is scored as such; a solution in words may lack.
#[test]
fn problems_have_numbers_or_letters_to_be_scored_by() {
    let task = Task::parse("math").unwrap();
    let rows = r#"[
        {"instruction": "Q", "input": "", "output": " A: 3 + 4 = 7. ", "answer": "7.0"},
        {"instruction": "Q", "input": "", "output": "", "answer": 8},
        {"instruction": "Q", "input": "", "output": "The answer is (B).", "answer": "B"}
    ]"#;
    let rows = read(&task, "test.json", rows).unwrap();
    let targets: Vec<Option<Value>> = rows.iter().map(|row| row.target.clone()).collect();
    let texts = ["so 3 + 4 = 7.", "7 or 8", "(B)"].map(str::to_owned);
    let objective = &*task.objective;
    let scores = written::scores(objective, &texts, &targets).unwrap();
    assert_eq!(scores["answer_accuracy"], 1.0);
    let texts = ["7 - 3 = 4", "8 or 7", "Answer: B"].map(str::to_owned);
    let scores = written::scores(objective, &texts, &targets).unwrap();
    assert_eq!(scores["answer_accuracy"], 0.0);
    let said = |text: &str, row: usize| written::answer(objective, text, targets[row].as_ref());
    assert_eq!(said("7 - 3 = 4", 0), Some(("number", json!(4.0))));
    assert_eq!(said("none", 1), Some(("number", Value::Null)));
    assert_eq!(said("(D) or (B)", 2), Some(("letter", json!("D"))));

    let base = Pretrained::open(&fixtures().join("parity/llama_mha-0"), Head::CausalLm).unwrap();
    let tokenizer = tokenizer(99, false);
    let bound = objective.bind(base.model.config(), &tokenizer).unwrap();
    let bound = bound.unwrap();
    let encoded = bound.encode(&rows, &tokenizer, 60).unwrap();
    let learned: Vec<bool> = encoded.iter().map(|row| bound.has_targets(row)).collect();
    assert_eq!(learned, [true, false, true]);
    // A row that has neither has nothing to learn, and is refused.
    let row = r#"[{"instruction": "Q", "input": "", "output": "", "answer": ""}]"#;
    assert!(
        read(&task, "test.json", row)
            .unwrap_err()
            .contains("`output`")
    );
}
