//! Model folders: names and heads of other models, shards, and everything that can be wrong.
//!
//! One long file: one case for each thing that can be wrong with a folder.

mod support;

use std::{collections::HashMap, fs, path::Path};

use ailora_models::{
    config::Config,
    head::Head,
    pretrained::{Pretrained, PretrainedError},
};
use ailora_runtime::store::{self, Array, Params};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::{Value, json};
use support::{fixtures, labels};
use tempfile::TempDir;

const QUERY: &str = "bert.encoder.layer.1.attention.self.query.weight";

/// A copy of a fixture's folder, to be spoilt.
fn copy(family: &str) -> TempDir {
    let from = fixtures().join(format!("parity/{family}_cls-0"));
    let dir = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(from.join(file), dir.path().join(file)).unwrap();
    }
    dir
}

fn weights(dir: &Path) -> Params {
    store::load(&dir.join("model.safetensors")).unwrap().0
}

fn save(dir: &Path, file: &str, params: &Params) {
    store::save(&dir.join(file), params, HashMap::new()).unwrap();
}

/// The message of opening a folder whose weights `change` has changed.
fn spoilt(change: impl FnOnce(&mut Params)) -> String {
    let dir = copy("bert");
    let mut params = weights(dir.path());
    change(&mut params);
    save(dir.path(), "model.safetensors", &params);
    error(dir.path())
}

fn open(dir: &Path) -> Result<Pretrained, PretrainedError> {
    Pretrained::open(dir, Head::classification(2))
}

fn error(dir: &Path) -> String {
    let message = open(dir).unwrap_err().to_string();
    message.replace(&dir.display().to_string(), "DIR")
}

/// The message of opening a folder whose `config.json` has another value of `field`, or none.
fn with_field(family: &str, field: &str, value: Option<Value>) -> String {
    let dir = copy(family);
    let path = dir.path().join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let fields = config.as_object_mut().unwrap();
    match value {
        Some(value) => fields.insert(field.into(), value),
        None => fields.shift_remove(field),
    };
    fs::write(&path, config.to_string()).unwrap();
    error(dir.path())
}

/// A field's value is refused for a reason.
fn refuses(family: &str, field: &str, value: Value, reason: &str) {
    let message = with_field(family, field, Some(value));
    assert!(message.starts_with("DIR/config.json: "), "{message}");
    assert!(message.contains(reason), "{message}");
}

#[test]
fn old_names_and_heads_of_other_tasks() {
    let dir = copy("bert");
    let original = open(dir.path()).unwrap();
    // As a BertForPreTraining of 2018 without the model's own prefix.
    let mut old: Params = weights(dir.path())
        .into_iter()
        .filter(|(name, _)| !name.starts_with("classifier."))
        .map(|(name, array)| {
            let name = name.strip_prefix("bert.").unwrap().to_owned();
            let name = name.replace("LayerNorm.weight", "LayerNorm.gamma");
            (name.replace("LayerNorm.bias", "LayerNorm.beta"), array)
        })
        .collect();
    old.insert("cls.predictions.bias".into(), Array::zeros([99]));
    save(dir.path(), "model.safetensors", &old);
    let mut found = open(dir.path()).unwrap();
    assert_eq!(found.report.unused, ["cls.predictions.bias"]);
    assert_eq!(found.weights.len(), original.weights.len() - 2);
    for (name, array) in &found.weights {
        assert_eq!(array, &original.weights[name], "{name}");
    }
    assert_ne!(found.sha256, original.sha256);

    let message = found.check_head().unwrap_err().to_string();
    assert!(message.contains("no trained head"), "{message}");
    assert!(
        message.contains("classifier.weight, classifier.bias"),
        "{message}"
    );
    found.initialise_head(5);
    found.check_head().unwrap();
    let report = found.report.to_string();
    assert_eq!(
        report,
        "39 weights loaded; 2 newly initialised: classifier.weight, classifier.bias; 1 in the files \
         not used: cls.predictions.bias"
    );
}

#[test]
fn a_new_head_is_normal_and_fixed_by_the_seed() {
    for (family, weight) in [
        ("bert", "classifier.weight"),
        ("roberta", "classifier.out_proj.weight"),
    ] {
        let dir = copy(family);
        let base = Pretrained::open(dir.path(), Head::classification(400)).unwrap();
        let head = |seed| {
            let mut base = base.clone();
            base.initialise_head(seed);
            assert!(
                base.report
                    .to_string()
                    .contains(&format!("{weight} (the files' has shape"))
            );
            assert!(!base.report.applied.iter().any(|name| name == weight));
            base.weights
        };
        let [first, again, other] = [head(1), head(1), head(2)];
        assert_eq!(first, again);
        assert_ne!(first[weight], other[weight]);
        let data = &first[weight].floats();
        let mean = data.iter().sum::<f32>() / data.len() as f32;
        let variance = data.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / data.len() as f32;
        assert!(
            mean.abs() < 1e-3 && (variance.sqrt() - 0.02).abs() < 1e-3,
            "{mean} {variance}"
        );
        let bias = weight.replace("weight", "bias");
        assert!(first[&bias].floats().iter().all(|&x| x == 0.0));
        // What fits stays.
        let stays = Pretrained::open(dir.path(), labels(dir.path())).unwrap();
        let mut same = stays.clone();
        same.initialise_head(1);
        assert_eq!(same.weights, stays.weights);
        assert_eq!(same.report, stays.report);
        let message = base.check_head().unwrap_err().to_string();
        assert!(message.contains("the task needs [400"), "{message}");
    }
}

#[test]
fn a_missing_pooler_may_be_initialised() {
    let dir = copy("bert");
    let mut params = weights(dir.path());
    params.retain(|name, _| !name.contains("pooler"));
    save(dir.path(), "model.safetensors", &params);
    let mut base = open(dir.path()).unwrap();
    base.initialise_head(0);
    assert!(
        base.report
            .to_string()
            .contains("2 newly initialised: bert.pooler.dense.weight")
    );
}

#[test]
fn shards_are_one_model() {
    let dir = copy("roberta");
    let whole = open(dir.path()).unwrap();
    let params = weights(dir.path());
    fs::remove_file(dir.path().join("model.safetensors")).unwrap();
    let mut shards = [Params::new(), Params::new()];
    let mut map = serde_json::Map::new();
    for (i, (name, array)) in params.into_iter().enumerate() {
        map.insert(name.clone(), json!(format!("model-{}.safetensors", i % 2)));
        shards[i % 2].insert(name, array);
    }
    for (i, shard) in shards.iter().enumerate() {
        save(dir.path(), &format!("model-{i}.safetensors"), shard);
    }
    let index = dir.path().join("model.safetensors.index.json");
    fs::write(
        &index,
        json!({"metadata": {}, "weight_map": map}).to_string(),
    )
    .unwrap();
    let found = open(dir.path()).unwrap();
    assert_eq!(found.weights.len(), whole.weights.len());
    for (name, array) in &found.weights {
        assert_eq!(array, &whole.weights[name], "{name}");
    }

    fs::remove_file(dir.path().join("model-1.safetensors")).unwrap();
    let message = error(dir.path());
    assert!(
        message.starts_with("DIR/model-1.safetensors is missing"),
        "{message}"
    );
    for (text, cause) in [
        (
            json!({"weight_map": {"a": "../b"}}).to_string(),
            "`a` is in \"../b\", which is not the name of a file",
        ),
        (
            json!({"weight_map": {}}).to_string(),
            "its `weight_map` is empty",
        ),
        (json!({"weights": {}}).to_string(), "it has no `weight_map`"),
        ("{".into(), "line 1 column 1"),
    ] {
        fs::write(&index, text).unwrap();
        let message = error(dir.path());
        let start = "DIR/model.safetensors.index.json: not a";
        assert!(
            message.starts_with(start) && message.contains(cause),
            "{message}"
        );
    }
}

#[test]
fn shared_weights_may_be_there_by_either_name() {
    let dir = copy("bert");
    let mut params = weights(dir.path());
    let words = "bert.embeddings.word_embeddings.weight";
    let decoder = "cls.predictions.decoder.weight";
    params.insert(decoder.into(), params[words].clone());
    save(dir.path(), "model.safetensors", &params);
    let both = open(dir.path()).unwrap();
    assert_eq!(both.report.unused, Vec::<String>::new());

    let table = params.shift_remove(words).unwrap();
    save(dir.path(), "model.safetensors", &params);
    let one = open(dir.path()).unwrap();
    assert_eq!(one.weights[words], table);

    params.insert(words.into(), table);
    params[decoder].floats_mut()[0] += 1.0;
    save(dir.path(), "model.safetensors", &params);
    let different = open(dir.path()).unwrap();
    assert_eq!(different.report.unused, [decoder]);
    assert_eq!(different.weights[words], one.weights[words]);
}

#[test]
fn tensors_inside_the_model_that_nothing_is_computed_of_are_refused() {
    let with = |family: &str, names: &[&str]| {
        let dir = copy(family);
        let mut params = weights(dir.path());
        for name in names {
            params.insert((*name).into(), Array::zeros([2]));
        }
        save(dir.path(), "model.safetensors", &params);
        let outputs = Config::from_dir(dir.path()).unwrap().num_labels();
        let opened = Pretrained::open(dir.path(), Head::classification(outputs));
        opened
            .map(|found| found.report.unused)
            .map_err(|error| error.to_string())
    };
    for (family, name) in [
        ("bert", "bert.encoder.layer.2.output.dense.weight"),
        ("bert", "bert.encoder.layer.0.attention.self.query.scale"),
        ("bert", "encoder.layer.0.adapter.weight"),
        ("bert", "classifier.scale"),
        (
            "roberta",
            "roberta.encoder.layer.0.attention.self.distance_embedding.weight",
        ),
        ("deberta_v3", "deberta.encoder.conv.conv.weight"),
        ("llama", "model.layers.0.self_attn.q_norm.weight"),
        ("llama", "model.layers.1.mlp.gate_proj.bias"),
        ("bart", "model.encoder.layer_norm.weight"),
    ] {
        let error = with(family, &[name]).unwrap_err();
        assert!(
            error.contains(name) && error.contains("1 tensors are inside the model"),
            "{error}"
        );
    }
    // Buffers, and heads of other tasks.
    for (family, names) in [
        (
            "bert",
            &[
                "bert.embeddings.position_ids",
                "cls.predictions.transform.dense.weight",
                "cls.seq_relationship.weight",
                "qa_outputs.weight",
            ][..],
        ),
        (
            "roberta",
            &["roberta.pooler.dense.weight", "lm_head.dense.weight"],
        ),
        (
            "deberta_v3",
            &[
                "deberta.embeddings.position_embeddings.weight",
                "mask_predictions.dense.weight",
            ],
        ),
        (
            "llama",
            &[
                "model.layers.0.self_attn.rotary_emb.inv_freq",
                "lm_head.weight",
            ],
        ),
        ("bart", &["model.encoder.version", "final_logits_bias"]),
    ] {
        let mut unused = with(family, names).unwrap();
        unused.sort_by_key(|name| names.iter().position(|other| other == name));
        assert_eq!(unused, names, "{family}");
    }
}

#[test]
fn tables_that_are_tied_but_differ_are_each_used() {
    let source = fixtures().join("parity/llama_gqa_tied-0");
    let dir = tempfile::tempdir().unwrap();
    fs::copy(source.join("config.json"), dir.path().join("config.json")).unwrap();
    let original = weights(&source);
    let [table, head] = ["model.embed_tokens.weight", "lm_head.weight"];
    let open = |params: &Params, head: Head| {
        save(dir.path(), "model.safetensors", params);
        Pretrained::open(dir.path(), head)
    };
    // One table, by either name or both.
    let mut params = original.clone();
    params.insert(head.into(), original[table].clone());
    let both = open(&params, Head::CausalLm).unwrap();
    params.shift_remove(table);
    let other = open(&params, Head::CausalLm).unwrap();
    for found in [&both, &other] {
        assert_eq!(found.weights[table], original[table]);
        assert_eq!(
            (&found.report.notes[..], &found.report.unused[..]),
            (&[][..], &[][..])
        );
        found.check_head().unwrap();
    }
    // Two tables.
    let mut params = original.clone();
    let mut own = original[table].clone();
    own.floats_mut().iter_mut().for_each(|x| *x = -*x);
    params.insert(head.into(), own.clone());
    let found = open(&params, Head::CausalLm).unwrap();
    found.check_head().unwrap();
    assert_eq!(
        (&found.weights[table], &found.weights[head]),
        (&original[table], &own)
    );
    assert_eq!(found.model.config().json["tie_word_embeddings"], false);
    let [note] = &found.report.notes[..] else {
        panic!("{:?}", found.report.notes)
    };
    for name in ["tie_word_embeddings", table, head] {
        assert!(note.text.contains(name), "{note}");
    }
    // A classifier has no use for the second.
    let classifier = open(&params, Head::classification(2)).unwrap();
    assert_eq!(classifier.report.unused, [head]);
    assert_eq!(classifier.report.notes, []);

    // A masked language model's head has no table of its own here.
    let dir = tempfile::tempdir().unwrap();
    let source = fixtures().join("parity/bert_mlm-0");
    fs::copy(source.join("config.json"), dir.path().join("config.json")).unwrap();
    let mut params = weights(&source);
    let mut own = params["bert.embeddings.word_embeddings.weight"].clone();
    own.floats_mut()[3] += 0.5;
    params.insert("cls.predictions.decoder.weight".into(), own);
    save(dir.path(), "model.safetensors", &params);
    let error = Pretrained::open(dir.path(), Head::MaskedLm)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("`cls.predictions.decoder.weight` differ"),
        "{error}"
    );
}

#[test]
fn more_layers_than_tensors_are_refused_before_they_are_built() {
    for (family, field, layers) in [
        ("bert", "num_hidden_layers", 1 << 10),
        ("bart", "encoder_layers", 700),
        ("bart", "decoder_layers", 1 << 10),
        ("llama", "num_hidden_layers", 1 << 10),
    ] {
        let message = with_field(family, field, Some(json!(layers)));
        let expected = format!("`{field}` of config.json is {layers}, but the files have ");
        assert!(message.contains(&expected), "{message}");
    }
    let message = with_field("llama", "num_hidden_layers", Some(json!(1 << 24)));
    assert!(
        message.contains("a whole number from 1 to 1024"),
        "{message}"
    );
}

#[test]
fn labels_are_numbered_from_0_and_named() {
    for value in [
        json!(["a", "b"]),
        json!(5),
        json!({"x": "a", "y": "b"}),
        json!({"0": "a", "2": "b"}),
        json!({"0": "a", "1": 7}),
        json!({"1": "a", "01": "b"}),
    ] {
        let message = with_field("bert", "id2label", Some(value));
        assert!(message.contains("`id2label` is "), "{message}");
    }
    let message = with_field("bert", "num_labels", Some(json!(1e9 as u64)));
    assert!(message.contains("`num_labels` is 1000000000"), "{message}");
}

#[test]
fn fields_that_are_not_known_are_noted() {
    let dir = copy("roberta");
    let path = dir.path().join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config["rotary_percentage"] = json!(0.5);
    config["not_there"] = json!(null);
    fs::write(&path, config.to_string()).unwrap();
    let notes = Config::from_dir(dir.path()).unwrap().notes;
    let [note] = &notes[..] else {
        panic!("{notes:?}")
    };
    assert!(
        note.text.ends_with("not used: `rotary_percentage`"),
        "{note}"
    );
}

#[test]
fn fields_with_two_names_agree() {
    let message = with_field("bart", "num_hidden_layers", Some(json!(1)));
    assert!(
        message.contains("`num_hidden_layers` is 1; expected what `encoder_layers` is"),
        "{message}"
    );
    let message = with_field("bart", "hidden_size", Some(json!(64)));
    assert!(message.contains("what `d_model` is"), "{message}");
}

#[test]
fn damaged_weight_files_are_errors() {
    let dir = copy("bert");
    let path = dir.path().join("model.safetensors");
    let whole = fs::read(&path).unwrap();
    let header = u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let mut spoils: Vec<Vec<u8>> = [0, 4, 8, 100, header + 8, header + 9, whole.len() - 1]
        .map(|len| whole[..len].to_vec())
        .into();
    for length in [0, 1, u64::MAX, 1 << 40, whole.len() as u64] {
        spoils.push([&length.to_le_bytes()[..], &whole[8..]].concat());
    }
    spoils.push([&whole[..], b"more"].concat());
    spoils.push(b"PK\x03\x04 a zip file, as pytorch_model.bin is".to_vec());
    for bytes in spoils {
        fs::write(&path, &bytes).unwrap();
        let message = error(dir.path());
        assert!(message.starts_with("DIR/model.safetensors: "), "{message}");
    }
    fs::remove_file(&path).unwrap();
    assert!(
        error(dir.path()).starts_with("DIR has no weights; expected one of model.safetensors, ")
    );
}

#[test]
fn weights_that_do_not_fit_are_named() {
    let message = spoilt(|params| {
        params[QUERY] = Array::zeros([32, 31]);
    });
    assert_eq!(
        message,
        format!(
            "DIR: weight `{QUERY}` has shape [32, 31], but config.json asks for [32, 32]; are both \
             of the same model?"
        )
    );
    let message = spoilt(|params| {
        params["bert.pooler.dense.weight"] = Array::zeros([32]);
    });
    assert!(
        message.contains("`bert.pooler.dense.weight` has shape [32]"),
        "{message}"
    );
    let message = spoilt(|params| {
        params.shift_remove(QUERY);
        params.shift_remove("bert.embeddings.LayerNorm.bias");
    });
    assert!(message.starts_with("DIR: 2 weights that config.json asks for are missing: "));
    assert!(message.contains(QUERY) && message.contains("bert.embeddings.LayerNorm.bias"));
    let message = spoilt(|params| params.retain(|name, _| name.contains("pooler")));
    assert!(
        message.contains("37 weights") && message.contains(" and 29 more"),
        "{message}"
    );
    let message = spoilt(|params| {
        params.insert(
            QUERY.trim_start_matches("bert.").into(),
            Array::zeros([32, 32]),
        );
    });
    assert!(
        message.contains("both") && message.contains("remove one"),
        "{message}"
    );
}

#[test]
fn integer_weights_are_named_with_their_type() {
    let dir = copy("bert");
    let path = dir.path().join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let integers = vec![0; 32 * 32];
    let views: Vec<(String, TensorView<'_>)> = file
        .tensors()
        .into_iter()
        .map(|(name, view)| {
            let spoilt = || TensorView::new(Dtype::I8, vec![32, 32], &integers).unwrap();
            let view = if name == QUERY { spoilt() } else { view };
            (name, view)
        })
        .collect();
    fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
    let message = error(dir.path());
    assert!(
        message.contains(&format!("{QUERY} (stored as I8; floats are needed)")),
        "{message}"
    );
}

#[test]
fn a_configuration_needs_its_fields() {
    for field in [
        "hidden_size",
        "vocab_size",
        "num_attention_heads",
        "num_hidden_layers",
        "type_vocab_size",
    ] {
        let message = with_field("bert", field, None);
        let expected =
            format!("DIR/config.json: `{field}` is missing; expected a whole number from 1 to ");
        assert!(message.starts_with(&expected), "{message}");
        assert_eq!(
            with_field("bert", field, Some(Value::Null)),
            message,
            "{field}"
        );
    }
    let family = "expected one of bert, roberta, deberta-v2, bart, llama, mistral, qwen2";
    let message = with_field("bert", "model_type", None);
    assert_eq!(
        message,
        format!("DIR/config.json: `model_type` is missing; {family}")
    );
    let message = with_field("bert", "model_type", Some(json!("t5")));
    assert_eq!(
        message,
        format!("DIR/config.json: `model_type` is \"t5\"; {family}")
    );
}

#[test]
fn a_configuration_out_of_range_is_refused() {
    for (field, value, expected) in [
        (
            "num_hidden_layers",
            json!(0),
            "`num_hidden_layers` is 0; expected a whole number from 1 to",
        ),
        (
            "num_hidden_layers",
            json!(1e15 as u64),
            "`num_hidden_layers` is 1000000000000000; expected",
        ),
        (
            "num_attention_heads",
            json!(0),
            "`num_attention_heads` is 0",
        ),
        ("vocab_size", json!(0), "`vocab_size` is 0"),
        (
            "vocab_size",
            json!(-3),
            "`vocab_size` is -3; expected a whole",
        ),
        (
            "vocab_size",
            json!(9.5),
            "`vocab_size` is 9.5; expected a whole",
        ),
        (
            "hidden_size",
            json!("32"),
            "`hidden_size` is \"32\"; expected",
        ),
        (
            "hidden_size",
            json!(33),
            "a multiple of `num_attention_heads`, which is 4",
        ),
        (
            "hidden_act",
            json!("mish"),
            "`hidden_act` is mish; expected gelu",
        ),
        (
            "hidden_dropout_prob",
            json!(1.0),
            "`hidden_dropout_prob` is 1.0; expected a probability",
        ),
        (
            "attention_probs_dropout_prob",
            json!(-0.1),
            "expected a probability",
        ),
        ("classifier_dropout", json!(2), "`classifier_dropout` is 2"),
        (
            "layer_norm_eps",
            json!(-1e-5),
            "`layer_norm_eps` is -0.00001; expected a number",
        ),
        (
            "position_embedding_type",
            json!("relative_key"),
            "`position_embedding_type` is \"relative_key\"",
        ),
        (
            "is_decoder",
            json!(true),
            "`is_decoder` is true; expected it is not set: only encoders",
        ),
        (
            "add_cross_attention",
            json!(true),
            "`add_cross_attention` is true; expected it is not set",
        ),
    ] {
        refuses("bert", field, value, expected);
    }
}

#[test]
fn a_configuration_of_other_weights_is_refused() {
    let message = with_field("roberta", "pad_token_id", Some(json!(39)));
    assert!(message.contains("expected more than 40"), "{message}");
    // Of another model: the weights tell.
    let message = with_field("bert", "hidden_size", Some(json!(64)));
    assert!(message.contains("config.json asks for"), "{message}");
}

#[test]
fn a_configuration_of_deberta_is_checked() {
    for field in ["hidden_size", "max_position_embeddings"] {
        let message = with_field("deberta_v3", field, None);
        let expected = format!("`{field}` is missing; expected a whole number");
        assert!(message.contains(&expected), "{message}");
    }
    for (field, value, expected) in [
        (
            "pos_att_type",
            json!("c2p|p2p"),
            "`pos_att_type` is p2p; expected c2p and p2c",
        ),
        ("pos_att_type", json!(["c2c"]), "`pos_att_type` is c2c"),
        (
            "pos_att_type",
            json!(3),
            "`pos_att_type` is 3; expected c2p",
        ),
        (
            "position_buckets",
            json!(1),
            "`position_buckets` is 1; expected -1, or from 2 to less than twice the largest \
             distance, which is 39",
        ),
        (
            "position_buckets",
            json!(78),
            "`position_buckets` is 78; expected -1, or from 2",
        ),
        (
            "max_relative_positions",
            json!(1e15 as i64),
            "`max_relative_positions` is 1000000000000000; expected",
        ),
        (
            "norm_rel_ebd",
            json!("rms_norm"),
            "`norm_rel_ebd` is rms_norm; expected none or layer_norm",
        ),
        (
            "hidden_size",
            json!(33),
            "a multiple of `num_attention_heads`",
        ),
        (
            "attention_head_size",
            json!(16),
            "`attention_head_size` is 16; expected 8",
        ),
    ] {
        refuses("deberta_v3", field, value, expected);
    }
}

#[test]
fn a_pooler_and_a_convolution_of_deberta_are_checked() {
    for (field, value, expected) in [
        (
            "pooler_hidden_size",
            json!(64),
            "`pooler_hidden_size` is 64; expected `hidden_size`, which is 32",
        ),
        (
            "pooler_hidden_act",
            json!("mish"),
            "`pooler_hidden_act` is mish; expected gelu",
        ),
        (
            "conv_act",
            json!("mish"),
            "`conv_act` is mish; expected gelu",
        ),
        (
            "pooler_dropout",
            json!(1),
            "`pooler_dropout` is 1; expected",
        ),
        ("cls_dropout", json!(-1), "`cls_dropout` is -1; expected"),
        (
            "conv_kernel_size",
            json!(4),
            "`conv_kernel_size` is 4; expected 0, for no convolution, or an odd number",
        ),
        (
            "embedding_size",
            json!(0),
            "`embedding_size` is 0; expected",
        ),
        (
            "relative_attention",
            json!("yes"),
            "`relative_attention` is \"yes\"; expected true or false",
        ),
        ("type_vocab_size", json!(1 << 30), "`type_vocab_size` is"),
    ] {
        refuses("deberta_v3", field, value, expected);
    }
    let message = with_field("deberta_v2", "conv_groups", Some(json!(2)));
    assert!(
        message.contains("`conv_groups` is 2; expected 1"),
        "{message}"
    );
}

#[test]
fn what_a_configuration_of_deberta_says_must_be_in_the_files() {
    for (family, field, value, weight) in [
        (
            "deberta_v3",
            "conv_kernel_size",
            json!(3),
            "encoder.conv.conv.weight",
        ),
        (
            "deberta_v3",
            "share_att_key",
            json!(false),
            "self.pos_key_proj.weight",
        ),
        (
            "deberta_v3",
            "embedding_size",
            json!(16),
            "word_embeddings.weight` has shape [99, 32], but",
        ),
        (
            "deberta_absolute",
            "relative_attention",
            json!(true),
            "rel_embeddings.weight",
        ),
    ] {
        let message = with_field(family, field, Some(value));
        assert!(message.contains(weight), "{message}");
    }
}

#[test]
fn what_is_not_a_configuration_is_an_error() {
    let dir = copy("bert");
    let path = dir.path().join("config.json");
    let whole = fs::read(&path).unwrap();
    for bytes in [
        b"".as_slice(),
        b"[1]",
        b"\"bert\"",
        b"\xff\xfe",
        &whole[..whole.len() / 2],
    ] {
        fs::write(&path, bytes).unwrap();
        let message = error(dir.path());
        assert!(
            message.starts_with("DIR/config.json: not a JSON object with each name once: "),
            "{message}"
        );
        let place = message.contains("line") && message.contains("column");
        assert!(place || message.contains("found "), "{message}");
    }
    fs::remove_file(&path).unwrap();
    assert!(error(dir.path()).starts_with("cannot read DIR/config.json: "));
}

#[test]
fn the_number_of_labels_is_what_the_file_says() {
    let labels = |family| {
        open(copy(family).path())
            .unwrap()
            .model
            .config()
            .num_labels()
    };
    assert_eq!((labels("bert"), labels("roberta")), (2, 3));
}

#[test]
fn the_hash_is_that_of_the_file() {
    let dir = copy("bert");
    let found = open(dir.path()).unwrap().sha256;
    let output = std::process::Command::new("sha256sum")
        .arg(dir.path().join("model.safetensors"))
        .output();
    // Where there is no such command, the length is all there is to check.
    assert_eq!(found.len(), 64);
    if let Ok(output) = output {
        assert!(
            String::from_utf8(output.stdout)
                .unwrap()
                .starts_with(&found)
        );
    }
}
