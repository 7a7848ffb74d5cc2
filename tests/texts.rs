//! Texts that models write, scored: summaries by an encoder-decoder, and answers by a language model.

mod support;

use serde_json::{Value, json};
use support::Scene;

/// A word for every id; `<s>` and `</s>` around texts where `ends` says so.
fn tokenizer(ends: bool) -> Value {
    let mut tokenizer = support::word_level();
    if !ends {
        tokenizer["post_processor"] = Value::Null;
    }
    if let Some(vocabulary) = tokenizer["model"]["vocab"].as_object_mut() {
        for id in vocabulary.len()..99 {
            vocabulary.insert(format!("w{id}"), id.into());
        }
    }
    tokenizer
}

const WHO: [&str; 4] = ["cat", "dog", "he", "she"];
const WHERE: [&str; 3] = ["mat", "under", "old"];

/// Rows of a document and a summary of its second and last words.
fn documents(count: usize) -> String {
    let row = |i: usize| {
        let (who, place) = (WHO[i % WHO.len()], WHERE[(i / 4) % WHERE.len()]);
        json!({"document": format!("the {who} sat on the {place}"), "summary": format!("{who} {place}")})
    };
    let rows = (0..count).map(|i| row(i).to_string() + "\n");
    rows.collect()
}

fn printed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value}"))
}

#[test]
fn summaries_become_better_and_evaluate_scores_what_predict_writes() {
    let scene = Scene::new();
    scene.model("bart", "bart_generate-0", &tokenizer(true));
    scene.write("data/train.jsonl", documents(48));
    scene.write("data/validation.jsonl", documents(12));
    scene.ok(
        "finetune --model bart --task xsum --data data --method full --batch-size 8 --lr 1e-2 \
         --epochs 12 --schedule constant --max-length 16 --output out",
    );
    let evaluate = "evaluate --task xsum --data data --max-length 16 --max-new-tokens 6 --model";
    let [before, after] = ["bart", "out"].map(|model| {
        let printed = printed(&scene.ok(&format!("{evaluate} {model}")));
        printed["validation"].clone()
    });
    for name in ["rouge1", "rouge2", "rougeL", "rougeLsum"] {
        let [before, after] = [&before, &after].map(|scores| number(&scores[name]));
        assert!(after > before + 0.3, "{name}: {before} to {after}");
    }
    assert!(number(&after["loss"]) < number(&before["loss"]));
    assert_eq!(after["rows"], 12);
    let how = &after["generation"];
    for (name, expected) in [
        ("num_beams", json!(8)),
        ("no_repeat_ngram_size", json!(3)),
        ("early_stopping", json!(true)),
        ("length_penalty", json!(1.0)),
        ("min_length", json!(0)),
        ("max_new_tokens", json!(6)),
        ("forced_bos_token_id", json!(0)),
        ("forced_eos_token_id", json!([2])),
        ("prompt", json!(["{document}"])),
    ] {
        assert_eq!(how[name], expected, "{name}");
    }
    let flags = "--beams 2 --no-repeat-ngram-size 0 --batch-size 5";
    let other = printed(&scene.ok(&format!("{evaluate} out {flags}")));
    let how = &other["validation"]["generation"];
    assert_eq!(
        (&how["num_beams"], &how["no_repeat_ngram_size"]),
        (&json!(2), &json!(0))
    );

    let predict = "predict --model out --task xsum --max-length 16 --max-new-tokens 6";
    scene.ok(&format!(
        "{predict} --data data/validation.jsonl --output written.jsonl"
    ));
    let scored = scene.ok("score rouge --predictions written.jsonl --data data/validation.jsonl");
    let scored = printed(&scored);
    for name in ["rouge1", "rouge2", "rougeL", "rougeLsum"] {
        let score = scored.pointer(&format!("/{name}")).unwrap_or(&Value::Null);
        let score = score.get("f").unwrap_or(score);
        let found = number(&after[name]);
        assert!(
            (number(score) - found).abs() < 1e-9,
            "{name}: {score} != {found}"
        );
    }
    let loss = printed(&scene.ok(&format!("{evaluate} out --loss-only")));
    assert!(loss["validation"].get("rouge1").is_none());
    assert_eq!(loss["validation"]["loss"], after["loss"]);
}

/// Where the best is judged by what is written, each evaluation writes, and the best one is kept.
#[test]
fn the_best_evaluation_may_be_that_of_the_best_texts() {
    let scene = Scene::new();
    scene.model("bart", "bart_generate-0", &tokenizer(true));
    scene.write("data/train.jsonl", documents(48));
    scene.write("data/validation.jsonl", documents(12));
    for (method, output) in [("--method full", "whole"), ("--rank 4", "adapter")] {
        let ran = scene.run(&format!(
            "finetune --model bart --task xsum --data data {method} --batch-size 8 --lr 1e-2 --epochs 3 \
             --schedule constant --max-length 16 --best-by rougeL --output {output}"
        ));
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        let evaluations = scene.lines(&format!("{output}/evaluations.jsonl"));
        assert_eq!(evaluations.len(), 3);
        let scores: Vec<f64> = evaluations
            .iter()
            .map(|row| number(&row["metrics"]["rougeL"]))
            .collect();
        let best = scores.iter().copied().fold(f64::MIN, f64::max);
        let metrics = scene.json(&format!("{output}/metrics.json"));
        assert_eq!(metrics["headline"], "rougeL");
        let model = match output {
            "whole" => "--model whole",
            _ => "--model bart --adapter adapter",
        };
        let again = scene.ok(&format!(
            "evaluate {model} --task xsum --data data --max-length 16"
        ));
        let found = number(&printed(&again)["validation"]["rougeL"]);
        assert_eq!(found, best, "{scores:?}");
    }
    scene.refused(
        "finetune --model bart --task xsum --data data --max-length 16 --best-by rouge3 --output no",
        &["rouge3", "perplexity", "rouge1, rouge2, rougeL, rougeLsum"],
    );
}

#[test]
fn files_of_ones_own_are_summarised() {
    let scene = Scene::new();
    scene.model("bart", "bart_generate-0", &tokenizer(true));
    scene.write("own.jsonl", documents(40));
    let ran = scene.run(
        "finetune --model bart --train own.jsonl --objective seq2seq --batch-size 8 --rank 4 --lr 5e-3 \
         --epochs 1 --max-length 16 --output own",
    );
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stderr.contains("texts in `summary`"), "{}", ran.stderr);
    let config = scene.json("own/adapter_config.json");
    assert_eq!(config["task_type"], "SEQ_2_SEQ_LM");
    let evaluate = "evaluate --model bart --adapter own --data own.jsonl --max-new-tokens 4";
    let scores = printed(&scene.ok(evaluate));
    assert_eq!(scores["data"]["rows"], 40);
    assert!(number(&scores["data"]["rouge1"]) >= 0.0);
    // Read again every epoch, rows are the same.
    scene.ok(
        "finetune --model bart --train own.jsonl --objective seq2seq --batch-size 8 --rank 4 --lr 5e-3 \
         --epochs 1 --max-length 16 --stream true --output streamed",
    );
    assert!(!scene.losses("streamed").is_empty());
    scene.write("story/one.story", "The cat sat.\n\n@highlight\n\nHe sat\n");
    scene.write("story/two.story", "The dog ran.\n\n@highlight\n\nHe ran\n");
    scene.ok(
        "finetune --model bart --train story --objective seq2seq --batch-size 2 --rank 4 --hold-out 0 \
         --epochs 1 --max-length 16 --output stories",
    );
    scene.model("llama", "llama_mha-0", &tokenizer(false));
    scene.refused(
        "finetune --model llama --train own.jsonl --objective seq2seq --output no",
        &["no head for sequence-to-sequence"],
    );
}

/// Without a task or an adapter every row of what is given is scored, none is held out of it.
#[test]
fn all_that_is_given_is_scored() {
    let scene = Scene::new();
    scene.model("bart", "bart_generate-0", &tokenizer(true));
    scene.write("own/one.jsonl", documents(3));
    scene.write("own/two.jsonl", documents(4));
    scene.write("single.jsonl", documents(1));
    let evaluate =
        "evaluate --model bart --objective seq2seq --max-length 16 --max-new-tokens 4 --data";
    let folder = scene.path("own");
    for (data, rows) in [
        ("own", 7),
        (folder.to_str().unwrap(), 7),
        ("own/one.jsonl --data own/two.jsonl", 7),
        ("single.jsonl", 1),
    ] {
        let scores = printed(&scene.ok(&format!("{evaluate} {data}")));
        assert_eq!(scores["data"]["rows"], rows, "{data}: {scores}");
    }
    scene.write("math/AddSub.json", problems(6));
    scene.model("llama", "llama_gqa_tied-0", &tokenizer(false));
    scene.refused(
        "evaluate --model llama --task math --data math --data math/AddSub.json",
        &["math is a folder", "give the folder alone"],
    );
    for what in ["--objective seq2seq", "--task xsum"] {
        scene.refused(
            &format!("evaluate --model bart {what} --pair summary --data single.jsonl"),
            &["--pair is for pairs of texts", "leave it out"],
        );
    }
    let ran = scene.run(
        "evaluate --model bart --objective {\"seq2seq\":{\"target\":[\"none\",\"document\"]}} --data single.jsonl",
    );
    assert!(
        ran.stderr.contains("texts in `document` to write"),
        "{}",
        ran.stderr
    );
    scene.refused(
        "evaluate --model bart --objective {\"seq2seq\":{\"target\":\"none\"}} --data single.jsonl",
        &["no column `none`", "document, summary"],
    );
    scene.refused(
        "evaluate --model llama --data math/AddSub.json --objective causal --beams 2",
        &["--beams is for texts", "leave it out"],
    );
    scene.refused(
        "predict --model llama --task math --data math --by-id --output -",
        &["--by-id", "answers to questions"],
    );
}

/// What cannot be scored is said before anything is written or trained.
#[test]
fn an_answer_that_cannot_be_scored_is_named_first() {
    let scene = Scene::new();
    scene.model("llama", "llama_gqa_tied-0", &tokenizer(false));
    let half = problems(3).replace("41.0", "1/2");
    scene.write("math/AddSub.json", half);
    let evaluate = "evaluate --model llama --task math --data math --max-new-tokens 4";
    let words = [
        "row 2 of AddSub",
        "a number, or a letter from A to E",
        "1/2",
    ];
    let ran = scene.run(evaluate);
    assert_eq!(ran.code, Some(1));
    for word in words {
        assert!(ran.stderr.contains(word), "{}", ran.stderr);
    }
    assert!(!ran.stderr.contains("AddSub: loss"), "{}", ran.stderr);
    scene.ok(&format!("{evaluate} --loss-only"));
}

/// Problems whose answers a tiny model can learn: a word with the number in it.
fn problems(count: usize) -> String {
    let row = |i: usize| {
        let (who, answer) = [("cat", 40), ("dog", 41)][i % 2];
        json!({
            "instruction": format!("the {who} sat"), "input": "", "output": format!("w{answer}"),
            "answer": format!("{answer}.0"),
        })
    };
    Value::from((0..count).map(row).collect::<Vec<_>>()).to_string()
}

#[test]
fn answers_become_right_in_every_set_that_is_there() {
    let scene = Scene::new();
    scene.model("llama", "llama_gqa_tied-0", &tokenizer(false));
    scene.write("math/train.json", problems(24));
    scene.write("math/AddSub.json", problems(6));
    scene.write("math/svamp/test.json", problems(3));
    let letters = problems(4).replace("40.0", "A").replace("41.0", "B");
    scene.write("math/AQuA.json", letters);
    scene.ok(
        "finetune --model llama --task math --data math --batch-size 4 --method full --lr 1e-2 \
         --epochs 6 --max-length 60 --schedule constant --output out",
    );
    let evaluate = "evaluate --task math --data math --max-new-tokens 4 --model";
    let before = printed(&scene.ok(&format!("{evaluate} llama")));
    let after = printed(&scene.ok(&format!("{evaluate} out")));
    let names: Vec<&String> = after.as_object().unwrap().keys().collect();
    assert_eq!(names, ["AddSub", "AQuA", "SVAMP", "average"]);
    for (set, rows, right) in [("AddSub", 6, 1.0), ("SVAMP", 3, 1.0), ("AQuA", 4, 0.0)] {
        assert_eq!(number(&before[set]["answer_accuracy"]), 0.0, "{before}");
        let scores = &after[set];
        assert_eq!(number(&scores["answer_accuracy"]), right, "{set}: {scores}");
        assert_eq!(scores["rows"], rows);
        let ends = scores["answer_accuracy_interval"].as_array().unwrap();
        let [low, high] = [&ends[0], &ends[1]].map(number);
        assert!(
            low <= right && right <= high && high - low > 0.2,
            "{scores}"
        );
    }
    let mean = number(&after["average"]["answer_accuracy"]);
    assert!((mean - 2.0 / 3.0).abs() < 1e-12, "{mean}");
    assert_eq!(after["AddSub"]["generation"]["num_beams"], 1);

    let predict = "predict --model out --task math --max-new-tokens 4 --batch-size 4 --data";
    scene.ok(&format!(
        "{predict} math/AddSub.json --output numbers.jsonl"
    ));
    let numbers: Vec<f64> = scene
        .lines("numbers.jsonl")
        .iter()
        .map(|row| number(&row["number"]))
        .collect();
    assert_eq!(numbers, [40.0, 41.0, 40.0, 41.0, 40.0, 41.0]);
    scene.ok(&format!("{predict} math/AQuA.json --output letters.jsonl"));
    let row = &scene.lines("letters.jsonl")[0];
    assert_eq!((&row["letter"], row.get("number")), (&Value::Null, None));
    scene.refused(
        "evaluate --model out --task math --data cola",
        &["has none of the files that task math is evaluated on: MultiArith.json"],
    );
}

/// A batch is written as each of its prompts alone: a stop in one row stops no other, and one in a prompt
/// stops nothing.
#[test]
fn texts_stop_each_by_itself() {
    let scene = Scene::new();
    scene.model("llama", "llama_gqa_tied-0", &tokenizer(false));
    let prompts = ["the cat", "dog", "w50 w51 w52", "he sat on the mat"];
    let all: String = prompts
        .iter()
        .map(|text| json!({"prompt": text, "completion": "w1"}).to_string() + "\n")
        .collect();
    scene.write("prompts.jsonl", all);
    let predict = "predict --model llama --data prompts.jsonl --max-new-tokens 8 --force";
    let texts = |more: &str| -> Vec<String> {
        scene.ok(&format!("{predict} {more} --output texts.jsonl"));
        let lines = scene.lines("texts.jsonl");
        lines
            .iter()
            .map(|row| row["text"].as_str().unwrap().to_owned())
            .collect()
    };
    let whole = texts("");
    let stop = whole[0].split_whitespace().nth(3).unwrap().to_owned();
    for size in [1, 2, 4] {
        let stopped = texts(&format!("--batch-size {size} --stop {stop} --stop w50"));
        for (whole, stopped) in whole.iter().zip(&stopped) {
            let end = [&*stop, "w50"]
                .iter()
                .filter_map(|stop| whole.find(stop))
                .min();
            let expected = &whole[..end.unwrap_or(whole.len())];
            assert_eq!(stopped, expected, "batches of {size}");
        }
    }
    for how in ["--beams 3", "--beams 3 --early-stopping --stop w50"] {
        let alone = texts(&format!("{how} --batch-size 1"));
        assert_eq!(texts(&format!("{how} --batch-size 4")), alone, "{how}");
    }
}
