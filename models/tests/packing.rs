//! Documents that share a row, and windows over long ones, against each document alone and against
//! transformers.

mod support;

use std::{fs, path::Path, sync::Arc};

use ailora_graph::{
    Trainable,
    ir::{Draw, Type},
    nn::Tensor,
};
use ailora_models::{
    batch::{Batch, BatchError, Buckets, Encoded, Inputs, Plan, Shape, Targets},
    data::{DataError, Example, Record},
    head::Head,
    objective::{Classification, HeldOut, Objective, ObjectiveError, Predictor, RawText},
    pretrained::Pretrained,
    tokenizer::{Encoding, Tokenizer},
};
use ailora_runtime::engine::Engine;
use indexmap::IndexMap;
use serde_json::{Value, json};
use support::{device, eval, fixtures, largest_difference, run};

/// Seeded tokens of a document.
fn document(number: usize, tokens: usize) -> Vec<u32> {
    let token = |i: usize| ((number * 31 + i * 17 + 7) % 90 + 3) as u32;
    (0..tokens).map(token).collect()
}

/// Documents in one row.
fn packed(documents: &[Vec<u32>]) -> Encoded {
    let mut encoding = Encoding::default();
    for document in documents {
        encoding.parts.push(encoding.ids.len());
        encoding.ids.extend(document);
    }
    encoding.type_ids = vec![1; encoding.ids.len()];
    Encoded {
        encoding,
        target: None,
        part: None,
    }
}

/// The logits of one row, padded to `len` tokens, by the backend and in float64.
fn logits(base: &Pretrained, row: &Encoded, len: usize, float64: bool) -> Vec<Vec<f64>> {
    let plan = Plan {
        len,
        indices: vec![0],
    };
    let batch = Batch::new(&plan, std::slice::from_ref(row), 0).unwrap();
    let program = base.model.program(batch.shape(), false, false).unwrap();
    let inputs = base.model.inputs(&batch);
    let outputs = match float64 {
        true => eval(&program, &base.weights, &inputs),
        false => run(&program, &base.weights, &inputs),
    };
    assert_eq!(outputs[0].0, "logits");
    let all = &outputs[0].1;
    assert!(all.iter().all(|x| x.is_finite()), "padding, too");
    all.chunks_exact(all.len() / len)
        .map(<[f64]>::to_vec)
        .collect()
}

/// Asserts that documents have the same logits together as each alone.
fn assert_apart(base: &Pretrained, documents: &[Vec<u32>], name: &str, float64: bool) {
    let all = packed(documents);
    let len = all.tokens();
    let together = logits(base, &all, len + 3, float64);
    let mut start = 0;
    for ids in documents {
        let alone = logits(base, &packed(std::slice::from_ref(ids)), ids.len(), float64);
        let found = together[start..][..ids.len()].concat();
        let difference = largest_difference(&found, &alone.concat());
        // The interpreter computes in float64 everywhere.
        let tolerance = if float64 {
            1e-5
        } else {
            device::tolerance(1e-5)
        };
        assert!(
            difference <= tolerance,
            "{name}, from {start} on: {difference:e}"
        );
        start += ids.len();
    }
    // The numbers matter: as one document it is another one.
    let one = Encoded {
        encoding: Encoding {
            parts: Vec::new(),
            ..all.encoding
        },
        target: None,
        part: None,
    };
    let one = logits(base, &one, len, float64);
    assert!(
        largest_difference(&one.concat(), &together[..len].concat()) > 1e-3,
        "{name}"
    );
}

fn language_model(folder: &str) -> Pretrained {
    Pretrained::open(&fixtures().join("parity").join(folder), Head::CausalLm).unwrap()
}

/// A Mistral with a window as long as its texts may be, of a LLaMA's weights.
fn mistral() -> (tempfile::TempDir, Pretrained) {
    let from = fixtures().join("parity/llama_gqa_tied-0");
    let folder = tempfile::tempdir().unwrap();
    let mut config: Value =
        serde_json::from_slice(&fs::read(from.join("config.json")).unwrap()).unwrap();
    let fields = config.as_object_mut().unwrap();
    fields.retain(|name, _| !["attention_bias", "mlp_bias", "pretraining_tp"].contains(&&**name));
    fields.insert("model_type".into(), "mistral".into());
    fields.insert("architectures".into(), json!(["MistralForCausalLM"]));
    fields.insert("sliding_window".into(), 64.into());
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    for file in ["model.safetensors", "generation_config.json"] {
        fs::copy(from.join(file), folder.path().join(file)).unwrap();
    }
    let base = Pretrained::open(folder.path(), Head::CausalLm).unwrap();
    assert_eq!(base.model.class(), "MistralForCausalLM");
    (folder, base)
}

#[test]
fn packed_documents_have_the_logits_of_each_alone() {
    let documents = [(0, 2), (1, 3), (2, 17), (3, 1), (4, 30)].map(|(i, n)| document(i, n));
    for float64 in [false, true] {
        for folder in [
            "llama_mha-0",
            "llama_gqa_tied-1",
            "llama_scaled-0",
            "qwen2-0",
        ] {
            assert_apart(&language_model(folder), &documents, folder, float64);
        }
        let (_folder, base) = mistral();
        assert_apart(&base, &documents, "mistral", float64);
    }
}

#[test]
fn packed_documents_of_the_real_smollm2_have_the_logits_of_each_alone() {
    let dir = device::package().join("../.cache/smollm2");
    if !dir.is_dir() {
        println!(
            "skipped: the real SmolLM2 is not in .cache/smollm2; scripts/smollm2.sh puts it there"
        );
        return;
    }
    let base = Pretrained::open(&dir, Head::CausalLm).unwrap();
    let tokenizer = base.tokenizer().unwrap();
    let texts = [
        "The whale dived.",
        "It was the best of times, it was the worst of times.",
        "2 + 2 = 4",
    ];
    let tokens = |text: &str| tokenizer.encode(text, None, 64).unwrap().ids;
    let all = packed(&texts.map(tokens));
    let together = logits(&base, &all, all.tokens(), false);
    let mut start = 0;
    for text in texts {
        let ids = tokens(text);
        let row = packed(std::slice::from_ref(&ids));
        let alone = logits(&base, &row, ids.len(), false).concat();
        let found = together[start..][..ids.len()].concat();
        let largest = alone.iter().fold(0.0_f64, |most, x| most.max(x.abs()));
        let difference = largest_difference(&found, &alone) / largest;
        println!("{text}: {difference:e} of {largest}");
        assert!(difference <= 1e-5, "{text}: {difference:e}");
        start += ids.len();
    }
}

/// Words w3, w4, ... for the fixtures' models, behind `<s>`.
fn words(folder: &Path) -> Tokenizer {
    let vocabulary: serde_json::Map<String, Value> = (0..99_usize)
        .map(|id| match id {
            0 => ("<pad>".to_owned(), json!(0)),
            1 => ("<s>".to_owned(), json!(1)),
            2 => ("</s>".to_owned(), json!(2)),
            id => (format!("w{id}"), json!(id)),
        })
        .collect();
    let special = |id: usize, token: &str| {
        json!({"id": id, "content": token, "special": true, "single_word": false,
            "lstrip": false, "rstrip": false, "normalized": false})
    };
    let begin = json!({"SpecialToken": {"id": "<s>", "type_id": 0}});
    let [text, pair] = ["A", "B"].map(|id| json!({"Sequence": {"id": id, "type_id": 0}}));
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [special(0, "<pad>"), special(1, "<s>"), special(2, "</s>")],
        "normalizer": null,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [begin, text],
            "pair": [begin, text, begin, pair],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "w3"},
    });
    fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let names = json!({"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"});
    fs::write(folder.join("tokenizer_config.json"), names.to_string()).unwrap();
    Tokenizer::from_dir(folder).unwrap()
}

/// A text of so many words.
fn text(number: usize, words: usize) -> Example {
    let ids = document(number, words);
    let words: Vec<String> = ids.iter().map(|id| format!("w{id}")).collect();
    Example::of(words.join(" "))
}

fn scores(
    base: &Pretrained,
    objective: &Arc<dyn Objective>,
    rows: &[Encoded],
    batch_size: usize,
) -> Result<IndexMap<String, f64>, ObjectiveError> {
    let (model, sites) = (base.model.clone(), Vec::new());
    let mut predictor = Predictor::new(model, objective.clone(), sites, Trainable::Adapters, 0);
    let mut engine = Engine::new(base.weights.clone());
    let lengths: Vec<usize> = rows.iter().map(Encoded::tokens).collect();
    let buckets = Buckets::choose(&lengths, 64, 3).unwrap();
    let split = HeldOut::new("dev", rows.to_vec(), &**objective, &buckets, batch_size, 0)?;
    objective.evaluate(&mut predictor, &mut engine, &split)
}

/// The sum of the cross-entropies of a document's tokens but the first, in float64, and their number.
fn alone(base: &Pretrained, ids: &[u32]) -> (f64, usize) {
    let logits = logits(base, &packed(&[ids.to_vec()]), ids.len(), true);
    let next = logits.iter().zip(&ids[1..]);
    let sum = next.map(|(logits, &id)| {
        let total: f64 = logits.iter().map(|x| x.exp()).sum();
        total.ln() - logits[id as usize]
    });
    (sum.sum(), ids.len() - 1)
}

#[test]
fn the_loss_of_texts_is_that_of_each_alone_whatever_the_batch() {
    let base = language_model("llama_mha-0");
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = words(folder.path());
    let objective = RawText::default();
    let objective = objective
        .bind(base.model.config(), &tokenizer)
        .unwrap()
        .unwrap();
    let texts = [(0, 3), (1, 48), (2, 1), (3, 20), (4, 7)].map(|(i, n)| text(i, n));
    // With the tokens around them, 5 and 50 and others; the end is there once though a text has it.
    let mut ended = texts.clone();
    ended[0].text += " </s>";
    let rows = objective.encode(&texts, &tokenizer, 64).unwrap();
    assert_eq!(objective.encode(&ended, &tokenizer, 64).unwrap(), rows);
    let lengths: Vec<usize> = rows.iter().map(Encoded::tokens).collect();
    assert_eq!(lengths, [5 + 50 + 3, 22 + 9]);
    let mut documents = Vec::new();
    for row in &rows {
        let Encoding { ids, parts, .. } = &row.encoding;
        let ends = parts[1..].iter().copied().chain([ids.len()]);
        documents.extend(
            parts
                .iter()
                .zip(ends)
                .map(|(&start, end)| ids[start..end].to_vec()),
        );
    }
    assert!(
        documents
            .iter()
            .all(|ids| ids[0] == 1 && ids.ends_with(&[2]))
    );
    let (sum, count) = documents
        .iter()
        .map(|ids| alone(&base, ids))
        .fold((0.0, 0), |all, one| (all.0 + one.0, all.1 + one.1));
    assert_eq!(count, 4 + 49 + 2 + 21 + 8);
    let expected = sum / count as f64;
    // Packed, and each document in a row of its own, padded.
    let each: Vec<Encoded> = texts
        .iter()
        .flat_map(|text| {
            objective
                .encode(std::slice::from_ref(text), &tokenizer, 64)
                .unwrap()
        })
        .collect();
    assert_eq!(each.len(), 5);
    for rows in [&rows, &each] {
        for batch_size in [1, 2, 8] {
            let found = scores(&base, &objective, rows, batch_size).unwrap()["loss"];
            let difference = (found.exp() - expected.exp()).abs() / expected.exp();
            assert!(difference <= 1e-4, "{batch_size}: {found} {expected}");
        }
    }
    // Of a row of one token nothing is a target: it adds nothing, and alone there is nothing to score.
    let bare = Encoded {
        encoding: Encoding {
            ids: vec![1],
            type_ids: vec![0],
            ..Encoding::default()
        },
        target: None,
        part: None,
    };
    assert!(!objective.has_targets(&bare) && rows.iter().all(|row| objective.has_targets(row)));
    let more = [&each[..], std::slice::from_ref(&bare)].concat();
    let found = scores(&base, &objective, &more, 1).unwrap()["loss"];
    assert!((found - expected).abs() <= 1e-5, "{found} {expected}");
    assert!(scores(&base, &objective, &[bare], 1).is_err());
}

/// Expected losses: the sliding windows of transformers' guide to perplexity, by transformers 5.17.0 in float64.
#[test]
fn windows_at_a_stride_score_as_transformers() {
    let base = language_model("llama_mha-0");
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = words(folder.path());
    let ids: Vec<u32> = (0..25).map(|i| (i * 17 + 7) % 90 + 3).collect();
    for (window, stride, expected) in [
        (10, Some(9), 4.68021467000893),
        (10, Some(10), 4.68021467000893),
        (10, None, 4.68021467000893),
        (10, Some(5), 4.692207269529394),
        (10, Some(3), 4.695574336242211),
        (25, None, 4.729558075574375),
        (25, Some(3), 4.729558075574375),
        (64, Some(7), 4.729558075574375),
    ] {
        // Unbound, without an end; and the tokenizer's first token is taken off, which the windows have not.
        let objective: Arc<dyn Objective> = Arc::new(RawText::new(stride));
        let plain = without_start(folder.path(), &tokenizer);
        let words: Vec<String> = ids.iter().map(|id| format!("w{id}")).collect();
        let examples = [Example::of(words.join(" "))];
        let rows = objective
            .encode_held_out(&examples, &plain, window)
            .unwrap();
        for batch_size in [1, 8] {
            let found = scores(&base, &objective, &rows, batch_size).unwrap();
            let loss = found["loss"];
            assert!(
                (loss - expected).abs() <= 1e-5,
                "{window} {stride:?}: {loss} {expected}"
            );
            let longest = window.min(25);
            let step = stride.unwrap_or(usize::MAX).min(longest - 1);
            assert_eq!(found["window"], longest as f64);
            assert_eq!(found["stride"], step as f64);
        }
        // To train, the rows are as without a stride.
        let trained = objective.encode(&examples, &plain, window).unwrap();
        let apart = RawText::default().encode_held_out(&examples, &plain, window);
        assert_eq!(trained, apart.unwrap());
    }
}

/// The same words without `<s>` in front.
fn without_start(folder: &Path, tokenizer: &Tokenizer) -> Tokenizer {
    let mut json: Value = serde_json::from_str(&tokenizer.to_json().unwrap()).unwrap();
    json["post_processor"] = Value::Null;
    let plain = folder.join("plain");
    fs::create_dir_all(&plain).unwrap();
    fs::write(plain.join("tokenizer.json"), json.to_string()).unwrap();
    fs::write(
        plain.join("tokenizer_config.json"),
        r#"{"pad_token": "<pad>"}"#,
    )
    .unwrap();
    Tokenizer::from_dir(&plain).unwrap()
}

#[test]
fn rows_without_room_for_a_target_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = words(folder.path());
    let error = RawText::default()
        .encode(&[text(0, 3)], &tokenizer, 1)
        .unwrap_err();
    assert!(
        error.to_string().contains("maximum length 1 is too short"),
        "{error}"
    );
}

#[test]
fn models_that_cannot_keep_documents_apart_refuse_them() {
    let base = Pretrained::open(
        &fixtures().join("parity/bert_cls-0"),
        Head::classification(2),
    );
    let objective: Arc<dyn Objective> = Arc::new(Classification::new("label", ["no", "yes"], &[]));
    let rows = [
        packed(&[document(0, 4)]),
        packed(&[document(1, 3), document(2, 4)]),
    ];
    let error = scores(&base.unwrap(), &objective, &rows, 2).unwrap_err();
    let expected = "example 1: 2 documents share a row, which sequence classification cannot keep apart; \
                    give each a row of its own";
    assert_eq!(error.to_string(), expected);
}

/// A loss that is told, over so many targets.
#[derive(Debug)]
struct Told(Vec<(f32, usize)>);

impl Objective for Told {
    fn head(&self) -> Head {
        Head::CausalLm
    }

    fn columns(&self) -> Vec<&str> {
        Vec::new()
    }

    fn target(&self, _: &Record<'_>) -> Result<Value, DataError> {
        Ok(Value::Null)
    }

    fn prepare(&self, batch: &mut Batch, _: &[&Encoded], _: Draw) -> Result<(), BatchError> {
        let (loss, count) = self.0[batch.indices[0]];
        batch.targets = Targets::new(Inputs::default().with_floats("told", vec![loss]), count);
        Ok(())
    }

    fn loss<'g>(&self, logits: &Tensor<'g>, _: Shape) -> Tensor<'g> {
        let told = logits.cx().input("told", Type::f32([1]));
        told.reshape([])
    }

    fn matches<'g>(&self, _: &Tensor<'g>, _: Shape) -> Option<Tensor<'g>> {
        None
    }
}

#[test]
fn the_mean_is_over_all_tokens_and_no_mean_of_means() {
    let base = language_model("llama_mha-0");
    let objective: Arc<dyn Objective> = Arc::new(Told(vec![(2.0, 4), (6.0, 1)]));
    let rows = [5, 2].map(|tokens| packed(&[document(0, tokens)]));
    let loss = scores(&base, &objective, &rows, 1).unwrap()["loss"];
    assert!((loss - 2.8).abs() <= 1e-6, "{loss}");
    assert!((loss.exp() - 16.44).abs() <= 0.01, "{loss}");
}
