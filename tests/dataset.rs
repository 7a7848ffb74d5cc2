//! Data of one's own, as a user has them.

mod support;

use std::{fmt::Write as _, io::Write as _};

use serde_json::{Value, json};
use support::{Scene, language_model};

const BERT: &str = "finetune --model bert --batch-size 64 --rank 4 --lr 5e-3 --hold-out 0";

/// Rows of a class each.
fn rows(count: usize, first: usize) -> String {
    let words = [
        "the cat sat",
        "a dog ran on",
        "she saw him",
        "old and under the mat",
    ];
    (first..first + count).fold(String::new(), |mut text, row| {
        let label = if row % 3 == 0 { "yes" } else { "no" };
        writeln!(text, "{} {},{label}", words[row % 4], words[row / 4 % 4]).unwrap();
        text
    })
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn a_run_goes_on_within_compressed_shards_with_the_same_bits() {
    let scene = Scene::new();
    for (shard, first) in [(0, 0), (1, 7000), (2, 14000)] {
        let text = format!("text,label\n{}", rows(7000, first));
        scene.write(&format!("shards/{shard}.csv.gz"), gzip(&text));
    }
    let run = "finetune --model bert --rank 4 --lr 5e-3 --hold-out 0 --train shards --stream --epochs 2 \
               --batch-size 256 --checkpoint-every 25";
    let said = scene.run(&format!("{run} --output whole"));
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert!(
        said.stderr
            .contains("21000 training rows are read again every epoch"),
        "{}",
        said.stderr
    );
    // Within the first window, in the second epoch, and at its end.
    scene.ok(&format!("{run} --output parts --max-steps 30"));
    scene.ok("finetune --resume --output parts --max-steps 121");
    scene.ok("finetune --resume --output parts --max-steps 166");
    let (whole, parts) = (scene.losses("whole"), scene.losses("parts"));
    assert_eq!(whole.len(), 166);
    assert_eq!(whole, parts);
    let adapter = |output: &str| scene.read(&format!("{output}/adapter_model.safetensors"));
    assert!(adapter("whole") == adapter("parts"));
    // The same files elsewhere are the same data; others are not.
    scene.ok(&format!("{run} --output moved --max-steps 3"));
    std::fs::rename(scene.path("shards"), scene.path("elsewhere")).unwrap();
    scene.ok("finetune --resume --output moved --train elsewhere --max-steps 5");
    scene.write(
        "elsewhere/1.csv.gz",
        gzip(&format!("text,label\n{}", rows(6999, 0))),
    );
    scene.refused(
        "finetune --resume --output moved --train elsewhere --max-steps 6",
        &["1.csv.gz of the data is another"],
    );
}

#[test]
fn the_names_of_classes_come_back_and_stay() {
    let scene = Scene::new();
    scene.write("train.csv", format!("text,label\n{}", rows(90, 0)));
    scene.ok(&format!(
        "{BERT} --train train.csv --valid train.csv --epochs 2 --output out"
    ));
    assert_eq!(
        scene.json("out/ailora.json")["labels"],
        json!(["no", "yes"])
    );
    scene.write("new.csv", "text\nthe cat sat\n\nthe old dog\n");
    // One a row, in their order, however they are batched.
    scene.ok("predict --model bert --adapter out --data new.csv --output two.jsonl --batch-size 2");
    scene.ok("predict --model bert --adapter out --data new.csv --output new.jsonl");
    let label = |line: &Value| line["label"].clone();
    let labels = |name: &str| scene.lines(name).iter().map(label).collect::<Vec<_>>();
    assert_eq!(labels("two.jsonl"), labels("new.jsonl"));
    let found = scene.lines("new.jsonl");
    let indices: Vec<&Value> = found.iter().map(|line| &line["index"]).collect();
    assert_eq!(indices, [0, 1, 2]);
    assert!(
        found
            .iter()
            .all(|line| line["label"] == "no" || line["label"] == "yes")
    );
    // A file of one class has the same numbers.
    scene.write(
        "yes.csv",
        "label,text\nyes,the cat sat the cat sat\nyes,a dog ran on the cat sat\n",
    );
    let scored = scene.ok("evaluate --model bert --adapter out --data yes.csv");
    let scored: Value = serde_json::from_str(&scored).unwrap();
    scene.ok("predict --model bert --adapter out --data yes.csv --output yes.jsonl");
    let right = scene
        .lines("yes.jsonl")
        .iter()
        .filter(|line| line["label"] == "yes")
        .count();
    assert_eq!(scored["data"]["accuracy"], right as f64 / 2.0);
    assert_eq!(
        scene.ok("evaluate --model bert --adapter out --data yes.csv"),
        scene.ok("evaluate --model bert --adapter out --data yes.csv")
    );
    // Labels of rows to predict may be anything, and the column of those to score may have another name.
    scene.write("hidden.csv", "text,label\nthe cat,-1\n");
    scene.ok("predict --model bert --adapter out --data hidden.csv --output hidden.jsonl");
    scene.write("named.csv", "text,gold\nthe cat,yes\n");
    scene.ok("evaluate --model bert --adapter out --data named.csv --label gold");
    scene.refused(
        "evaluate --model roberta --adapter out --data yes.csv",
        &["the adapter was trained on bert, whose weights are others"],
    );
    scene.refused(
        "evaluate --model bert --adapter out --data new.csv",
        &["new.csv, line 1: the header has no column `label`"],
    );
    scene.write("other.csv", "text,label\nthe cat,maybe\n");
    scene.refused(
        "evaluate --model bert --adapter out --data other.csv",
        &[
            "other.csv, line 2, column `label`: expected one of no, yes",
            "maybe",
        ],
    );
    scene.write("body.csv", "body,label\nthe cat,yes\n");
    scene.ok("evaluate --model bert --adapter out --data body.csv --text body");
}

#[test]
fn rows_that_cannot_be_used_are_counted_if_wanted() {
    let scene = Scene::new();
    let lines = "{\"text\": \"the cat\", \"label\": \"a\"}\n{\"text\": \n{\"text\": \"a dog\", \"label\": \"b\"}\n";
    scene.write("train.jsonl", lines.repeat(4));
    scene.refused(
        &format!("{BERT} --train train.jsonl --epochs 1 --output out"),
        &["train.jsonl: expected a JSON object on line 2"],
    );
    let ran = scene.run(&format!(
        "{BERT} --train train.jsonl --epochs 1 --output out --skip-malformed"
    ));
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(
        ran.stderr
            .contains("skipped 4 rows that cannot be used, the first: "),
        "{}",
        ran.stderr
    );
    assert!(
        ran.stderr
            .contains("one of 2 classes in `label`: a (4), b (4)"),
        "{}",
        ran.stderr
    );
}

#[test]
fn what_is_given_to_learn_is_one_thing() {
    let scene = Scene::new();
    scene.write("train.csv", format!("text,label\n{}", rows(9, 0)));
    scene.refused(
        "finetune --model bert --output out",
        &["--train FILE", "--task"],
    );
    let ran = scene.run("finetune --model bert --task cola --train train.csv --output out");
    assert_ne!(ran.code, Some(0));
    assert!(ran.stderr.contains("cannot be used with"), "{}", ran.stderr);
    scene.refused(
        &format!("{BERT} --train train.csv --label labl --output out"),
        &["--label: there is no column `labl`; there are text, label; did you mean `label`?"],
    );
    scene.refused(
        &format!("{BERT} --train train.csv --rows 3 --stream --output out"),
        &["--rows takes some of the rows in memory"],
    );
}

#[test]
fn what_is_understood_is_shown_with_what_is_learned_marked() {
    let scene = Scene::new();
    language_model(&scene.path("llama"));
    scene.write("a.csv", format!("text,label\n{}", rows(9, 0)));
    let shown = scene.ok("data a.csv");
    for part in [
        "a.csv: 9 rows",
        "texts: `text`",
        "one of 2 classes in `label`: no (6), yes (3)",
        "to predict: yes",
    ] {
        assert!(shown.contains(part), "{shown}");
    }
    let row =
        |prompt: &str, answer: &str| json!({"prompt": prompt, "completion": answer}).to_string();
    scene.write(
        "b.jsonl",
        format!(
            "{}\n{}\n",
            row("The capital of Peru is", " Lima."),
            row("Two and", " two")
        ),
    );
    let shown = scene.ok("data b.jsonl --model llama");
    assert!(
        shown.contains("The capital of Peru is⟦ Lima.</s>⟧"),
        "{shown}"
    );
    assert!(shown.contains("Two and⟦ two</s>⟧"), "{shown}");
    let turn = |role: &str, content: &str| json!({"role": role, "content": content});
    let chat = json!({"messages": [turn("user", "hi"), turn("assistant", "yo"), turn("user", "é?"), turn("assistant", "ok")]});
    scene.write("c.jsonl", format!("{chat}\n"));
    let shown = scene.ok("data c.jsonl --model llama --max-length 200");
    assert!(
        shown.contains("<|im_start|>assistant\n⟦yo<|im_end|>⟧\n<|im_start|>user\né?<|im_end|>"),
        "{shown}"
    );
    assert!(shown.contains("⟦ok<|im_end|>⟧"), "{shown}");
    assert!(scene.ok("data c.jsonl").contains("  assistant: yo\n"));
    let answer = json!({"question": "Where is she?", "context": "Ann is here", "answer": "here", "start": 7});
    scene.write("e.jsonl", format!("{answer}\n"));
    let shown = scene.ok("data e.jsonl");
    assert!(
        shown.contains("to predict: {") && shown.contains("here"),
        "{shown}"
    );
    scene.write("d.txt", "One line.\nAnother.\n");
    let shown = scene.ok("data d.txt --model llama --max-length 40");
    assert!(
        shown.contains("<s>⟦One line.</s>⟧<s>⟦Another.</s>⟧"),
        "{shown}"
    );
}

#[test]
fn rows_without_room_for_an_answer_are_left_out_everywhere() {
    let scene = Scene::new();
    language_model(&scene.path("llama"));
    let row = |i: usize| {
        let prompt = "word ".repeat(if i.is_multiple_of(5) { 40 } else { 2 + i % 3 });
        json!({"prompt": prompt, "completion": format!("{i}")}).to_string() + "\n"
    };
    scene.write("a.jsonl", (0..60).map(row).collect::<String>());
    let run = "finetune --model llama --train a.jsonl --hold-out 0 --epochs 2 --max-length 64 --batch-size 4";
    scene.ok(&format!("{run} --output held"));
    let ran = scene.run(&format!("{run} --output streamed --stream"));
    assert!(
        ran.stderr.contains("48 training rows are read again"),
        "{}",
        ran.stderr
    );
    let [held, streamed] = ["held", "streamed"].map(|output| scene.losses(output));
    assert_eq!((held.len(), streamed.len()), (24, 24));
    let losses = streamed.iter().map(|(_, bits)| f64::from_bits(*bits));
    assert!(losses.into_iter().all(|loss| loss > 0.1));
    // Before the first step, where there is nothing to score.
    scene.write("long.jsonl", row(0));
    scene.refused(
        &format!("{run} --valid long.jsonl --output out").replace("--hold-out 0 ", ""),
        &["nothing is left to learn or to predict of any of 1 rows"],
    );
}

#[test]
fn predictions_of_chats_are_of_chats() {
    let scene = Scene::new();
    language_model(&scene.path("llama"));
    let turn = |role: &str, content: &str| json!({"role": role, "content": content});
    let chat = json!({"messages": [turn("user", "hi"), turn("assistant", "yo")]});
    scene.write("a.jsonl", format!("{chat}\n{chat}\n"));
    let run = "finetune --model llama --hold-out 0 --max-steps 1 --max-length 128";
    scene.ok(&format!("{run} --train a.jsonl --output out"));
    scene.write(
        "b.jsonl",
        json!({"conversations": chat["messages"]}).to_string(),
    );
    scene.refused(
        "predict --model llama --adapter out --data b.jsonl --output b.out",
        &["b.jsonl, line 1, column `messages`"],
    );
    // A template without a place for calls would train on nothing.
    let call = json!({"type": "function", "function": {"name": "find_it", "arguments": {}}});
    let asked = json!({"role": "assistant", "content": null, "tool_calls": [call]});
    let calling = json!({"messages": [turn("user", "hi"), asked]});
    scene.write("c.jsonl", format!("{calling}\n"));
    scene.refused(
        &format!("{run} --train c.jsonl --output other"),
        &["c.jsonl, line 1: the chat template writes nothing of the tool call `find_it`"],
    );
}

#[test]
fn running_text_streams_as_it_does_from_memory() {
    let scene = Scene::new();
    language_model(&scene.path("llama"));
    let lines: String = (0..400)
        .map(|i| format!("Line {} of {i}.\n", "very ".repeat(i % 9)))
        .collect();
    scene.write("a.txt", &lines);
    let run = "finetune --model llama --train a.txt --hold-out 0 --epochs 1 --max-length 128 --batch-size 8";
    scene.ok(&format!("{run} --output held"));
    scene.ok(&format!("{run} --output streamed --stream"));
    let [held, streamed] = ["held", "streamed"].map(|output| scene.losses(output).len());
    assert_eq!(held, streamed);
    scene.ok(&format!("{run} --output first --stream --max-steps 2"));
    assert_eq!(scene.losses("first").len(), 2);
    scene.refused(
        "finetune --resume --output first --max-steps 3",
        &["`max_steps`, or the rows that are read again every epoch"],
    );
}

#[test]
fn nothing_of_an_earlier_reading_is_used() {
    let scene = Scene::new();
    language_model(&scene.path("llama"));
    let time = std::time::SystemTime::UNIX_EPOCH;
    let shown = |text: &str| {
        scene.write("a.txt", text);
        let file = std::fs::File::options()
            .write(true)
            .open(scene.path("a.txt"));
        file.unwrap().set_modified(time).unwrap();
        scene.ok("data a.txt --model llama --max-length 40")
    };
    let (first, second) = (shown("One line.\n"), shown("Two line.\n"));
    assert!(first.contains("⟦One line.</s>⟧") && second.contains("⟦Two line.</s>⟧"));
    let tokenizer = String::from_utf8(scene.read("llama/tokenizer.json")).unwrap();
    scene.write(
        "llama/tokenizer.json",
        tokenizer.replace("\"<s>\"", "\"<S>\""),
    );
    scene.write("llama/tokenizer_config.json", "{\"pad_token\": \"</s>\"}");
    assert!(shown("Two line.\n").contains("<S>⟦Two line.</s>⟧"));
}
