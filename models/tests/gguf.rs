//! GGUF files: what they hold is the model, and everything else is refused by name.
//!
//! One long file: the cases share the files that they damage.

mod support;
#[path = "support/gguf.rs"]
mod written;

use std::{fs, path::PathBuf};

use ailora_graph::ir::DType;
use ailora_models::{
    config::Config,
    gguf::fields::{ARCHITECTURE, GENERAL},
    head::Head,
    hub,
    pretrained::Pretrained,
    tokenizer::{self, Tokenizer},
};
use serde_json::Value as Json;
use support::fixtures;
use tempfile::TempDir;
use written::{File, Value};

const MODELS: &[&str] = &[
    "llama_gqa_tied-0",
    "llama_mha-0",
    "llama_scaled-1",
    "qwen2-0",
    "qwen2-1",
];

fn parity(name: &str) -> PathBuf {
    fixtures().join("parity").join(name)
}

fn llama() -> File {
    File::of(&parity("llama_gqa_tied-0"))
}

/// The file's folder, and the file.
fn kept(file: &File) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tiny.gguf");
    file.write(&path);
    (dir, path)
}

/// Why a file cannot be used.
fn error(file: &File) -> String {
    let (_dir, path) = kept(file);
    let message = Pretrained::open(&path, Head::CausalLm).map(drop);
    let message = message.unwrap_err().to_string();
    assert!(message.contains("tiny.gguf"), "{message}");
    message
}

fn refuses(change: impl FnOnce(&mut File), parts: &[&str]) {
    let mut file = llama();
    change(&mut file);
    let message = error(&file);
    for part in parts {
        assert!(message.contains(part), "{part}: {message}");
    }
}

/// The factors that Llama 3's converter writes in place of the scaling.
fn factors(config: &Json) -> Option<Vec<f32>> {
    let rope = &config["rope_parameters"];
    let number = |name: &str| rope[name].as_f64();
    let (factor, low, high) = (
        number("factor")?,
        number("low_freq_factor")?,
        number("high_freq_factor")?,
    );
    let original = number("original_max_position_embeddings")?;
    let pairs = config["head_dim"].as_u64()? / 2;
    let divisor = |pair: u64| {
        let wavelength = std::f64::consts::TAU
            * number("rope_theta")
                .unwrap()
                .powf(pair as f64 / pairs as f64);
        if wavelength < original / high {
            1.0
        } else if wavelength > original / low {
            factor
        } else {
            let smooth = (original / wavelength - low) / (high - low);
            1.0 / ((1.0 - smooth) / factor + smooth)
        }
    };
    Some((0..pairs).map(|pair| divisor(pair) as f32).collect())
}

#[test]
fn a_file_is_the_model_that_it_was_made_of() {
    for name in MODELS {
        let folder = parity(name);
        let config = fs::read(folder.join("config.json")).unwrap();
        let config: Json = serde_json::from_slice(&config).unwrap();
        let mut file = File::of(&folder);
        let factors = factors(&config);
        assert_eq!(factors.is_some(), name.contains("scaled"), "{name}");
        if let Some(factors) = factors {
            file.add("rope_freqs.weight", &[factors.len() as u64], &factors);
        }
        let (dir, path) = kept(&file);
        let expected = Pretrained::open(&folder, Head::CausalLm).unwrap();
        for model in [dir.path(), &path] {
            let found = Pretrained::open(model, Head::CausalLm).unwrap();
            assert_eq!(found.weights.len(), expected.weights.len(), "{name}");
            for (weight, array) in &expected.weights {
                assert_eq!(&found.weights[weight], array, "{name}: {weight}");
            }
            // Inputs hold the angles of rotary embeddings.
            let inputs = |model: &Pretrained| {
                let io = support::File::open(&folder.join("io.safetensors"));
                let config = model.model.config();
                config
                    .architecture
                    .inputs(Head::CausalLm, &io.batch(Head::CausalLm))
            };
            let values = |inputs: &ailora_models::batch::Inputs| -> Vec<(String, Vec<f32>)> {
                let values = inputs.values();
                let floats = values.into_iter().filter_map(|(name, value)| match value {
                    ailora_runtime::run::Value::F32(data) => Some((name.to_owned(), data.to_vec())),
                    ailora_runtime::run::Value::I32(_) => None,
                });
                floats.collect()
            };
            let (found, expected) = (values(&inputs(&found)), values(&inputs(&expected)));
            assert_eq!(found.len(), 3, "{name}");
            for ((input, found), (_, expected)) in found.iter().zip(&expected) {
                for (found, expected) in found.iter().zip(expected) {
                    assert!((found - expected).abs() < 1e-4, "{name}: {input}");
                }
            }
        }
        let tokenizer = Tokenizer::from_dir(&path).unwrap();
        let ids = tokenizer.encode("th", None, 8).unwrap().ids;
        assert_eq!(ids[0], 1, "{name}");
        assert_eq!(hub::resolve(path.to_str().unwrap()).unwrap(), path);
    }
}

/// Heads are turned whatever the elements are.
#[test]
fn floats_keep_the_type_that_the_file_has() {
    let expected = Pretrained::open(&parity("llama_gqa_tied-0"), Head::CausalLm).unwrap();
    for (kind, dtype) in [
        (1, DType::F16),
        (30, DType::Bf16),
        (28, DType::F64),
        (0, DType::F32),
    ] {
        let mut file = llama();
        for tensor in &mut file.tensors {
            let (floats, _) = tensor.bytes.as_chunks::<4>();
            let floats: Vec<f32> = floats.iter().map(|x| f32::from_le_bytes(*x)).collect();
            let mut bytes = vec![0; floats.len() * dtype.bytes()];
            dtype.encode(&floats, &mut bytes);
            (tensor.kind, tensor.bytes) = (kind, bytes);
        }
        let (_dir, path) = kept(&file);
        let found = Pretrained::open(&path, Head::CausalLm).unwrap();
        for (weight, array) in &expected.weights {
            let found = &found.weights[weight];
            assert_eq!((found.dtype(), found.shape()), (dtype, array.shape()));
            for (found, x) in found.floats().iter().zip(array.floats().iter()) {
                let rounded = dtype.round(f64::from(*x)) as f32;
                assert_eq!(*found, rounded, "{dtype}: {weight}");
            }
        }
    }
}

#[test]
fn several_files_of_a_folder_are_named() {
    let (dir, path) = kept(&llama());
    fs::copy(&path, dir.path().join("other.gguf")).unwrap();
    let message = Config::from_dir(dir.path()).unwrap_err().to_string();
    assert!(
        message.contains("several GGUF files: other.gguf, tiny.gguf; give the path of one"),
        "{message}"
    );
    assert!(Pretrained::open(&path, Head::CausalLm).is_ok());
}

#[test]
fn rotary_angles_are_scaled_as_the_file_says() {
    let scaling = |change: &dyn Fn(&mut File)| {
        let mut file = llama();
        change(&mut file);
        let (_dir, path) = kept(&file);
        let config = Config::from_dir(&path).unwrap();
        config.json.get("rope_scaling").cloned()
    };
    let linear = Some(serde_json::json!({"rope_type": "linear", "factor": 2.5}));
    let factor = |file: &mut File, kind: Option<&str>| {
        file.set("llama.rope.scaling.factor", 2.5_f32);
        if let Some(kind) = kind {
            file.set("llama.rope.scaling.type", kind);
        }
    };
    assert_eq!(scaling(&|file| factor(file, Some("linear"))), linear);
    // Where no type is named, llama.cpp means the linear one.
    assert_eq!(scaling(&|file| factor(file, None)), linear);
    let older = |file: &mut File| {
        file.set("llama.rope.scale_linear", 2.5_f32);
    };
    assert_eq!(scaling(&older), linear);
    assert_eq!(scaling(&|file| factor(file, Some("none"))), None);
    refuses(
        |file| factor(file, Some("yarn")),
        &["`llama.rope.scaling.type` is \"yarn\"; expected none or linear"],
    );
    refuses(
        |file| {
            file.set("llama.rope.scaling.attn_factor", 1.5_f32);
        },
        &["`llama.rope.scaling.attn_factor` is 1.5"],
    );
    refuses(
        |file| {
            file.add("rope_freqs.weight", &[4], &[1.0, 3.0, 2.0, 5.0]);
        },
        &["`rope_freqs.weight` divides rotary angles otherwise"],
    );
    refuses(
        |file| {
            file.add("rope_freqs.weight", &[2], &[1.0, 8.0]);
        },
        &["`rope_freqs.weight` has 2 factors; expected 4"],
    );
    let ones = |file: &mut File| {
        file.add("rope_freqs.weight", &[4], &[1.0; 4]);
    };
    assert_eq!(scaling(&ones), None);
}

fn refuses_key(key: &str, value: Value, reason: &str) {
    let change = |file: &mut File| {
        file.set(key, value);
    };
    refuses(change, &[&format!("`{key}`"), reason]);
}

#[test]
fn keys_of_an_architecture_are_refused_by_name() {
    for (key, value, expected) in [
        (
            "llama.attention.sliding_window",
            Value::U32(16),
            "at least the context's length, 64",
        ),
        ("llama.attention.value_length", Value::U32(4), "expected 8"),
        ("llama.rope.dimension_count", Value::U32(4), "expected 8"),
        (
            "llama.attention.causal",
            Value::Bool(false),
            "expected true",
        ),
        ("llama.attention.scale", Value::F32(0.5), "expected 0.35"),
        ("llama.vocab_size", Value::U32(98), "expected 99"),
        ("llama.expert_count", Value::U32(8), "mixtures of experts"),
        ("llama.logit_scale", Value::F32(0.25), "not supported"),
        (
            "llama.attn_logit_softcapping",
            Value::F32(50.0),
            "not supported",
        ),
        ("llama.something.else", Value::U32(3), "not known"),
        (
            "llama.attention.head_count",
            Value::Raw(5, (-4_i32).to_le_bytes().into()),
            "from 1 to",
        ),
        (
            "llama.attention.head_count_kv",
            Value::U32(3),
            "a divisor of 4",
        ),
        (
            "llama.attention.head_count_kv",
            Value::I32s(vec![2, 2]),
            "a list of 2",
        ),
        ("llama.embedding_length", Value::F32(32.5), "from 1 to"),
        (
            "llama.block_count",
            Value::U32(3),
            "expected 2, the number of layers",
        ),
        ("llama.rope.freq_base", Value::F32(-3.0), "above 0"),
        (
            "llama.rope.freq_base",
            Value::F32(f32::INFINITY),
            "which is no number",
        ),
        (
            "llama.attention.layer_norm_rms_epsilon",
            Value::F32(f32::NAN),
            "which is no number",
        ),
        (
            "llama.attention.layer_norm_rms_epsilon",
            "1e-5".into(),
            "below 1",
        ),
    ] {
        refuses_key(key, value, expected);
    }
}

#[test]
fn keys_of_a_file_and_its_tokenizer_are_refused_by_name() {
    for (key, value, expected) in [
        ("general.type", "adapter".into(), "own file"),
        (
            "general.quantization_version",
            Value::U32(1),
            "laid out otherwise",
        ),
        ("general.alignment", Value::U32(48), "a power of two"),
        ("split.count", Value::U32(2), "several files"),
        ("adapter.lora.alpha", Value::F32(16.0), "it is an adapter"),
        (
            "tokenizer.ggml.eos_token_id",
            Value::U32(99),
            "from 0 to 98",
        ),
        (
            "tokenizer.ggml.bos_token_id",
            Value::U32(4000),
            "from 0 to 98",
        ),
    ] {
        refuses_key(key, value, expected);
    }
}

#[test]
fn keys_that_ask_for_nothing_are_let_be() {
    let mut file = llama();
    file.set("llama.attention.sliding_window", 0)
        .set("llama.expert_count", 0)
        .set("llama.logit_scale", 1.0_f32)
        .set("llama.vocab_size", 99)
        .set("llama.tensor_data_layout", "Meta AI original pth")
        .set("general.name", "Tiny")
        .set("general.base_model.0.name", "Tinier")
        .set("general.quantization_version", 2)
        .set("general.tags", Value::Texts(vec!["a".into()]))
        .set("quantize.imatrix.file", "x.dat");
    let (_dir, path) = kept(&file);
    let model = Pretrained::open(&path, Head::CausalLm).unwrap();
    assert_eq!(model.report.notes, []);
    // These are nothing of the architecture's.
    file.set("general.colour", "green").set("other.key", 3);
    let (_dir, path) = kept(&file);
    let model = Pretrained::open(&path, Head::CausalLm).unwrap();
    let [note] = &model.report.notes[..] else {
        panic!("{:?}", model.report.notes);
    };
    assert!(
        note.text.ends_with("`general.colour`, `other.key`"),
        "{note}"
    );
}

#[test]
fn every_token_that_ends_a_text_is_an_end() {
    let mut file = llama();
    file.set("tokenizer.ggml.eot_token_id", 5)
        .set("tokenizer.ggml.eom_token_id", 2);
    let (_dir, path) = kept(&file);
    assert_eq!(Config::from_dir(&path).unwrap().ends(), [2, 5]);
}

#[test]
fn biases_are_applied_or_refused() {
    let file = File::of(&parity("llama_scaled-0"));
    let biases = |file: &File| {
        file.tensors
            .iter()
            .filter(|t| t.name.ends_with("bias"))
            .count()
    };
    assert_eq!(biases(&file), 2 * 7);
    let mut some = file.clone();
    some.tensors.retain(|t| t.name != "blk.1.attn_v.bias");
    assert!(error(&some).contains("attn_q, attn_k, attn_v, attn_output"));
    for name in ["blk.0.attn_norm.bias", "output_norm.bias", "output.bias"] {
        refuses(
            |file| {
                file.add(name, &[32], &[0.5; 32]);
            },
            &[name, "is not known"],
        );
    }
    let mut qwen = File::of(&parity("qwen2-0"));
    for layer in 0..2 {
        qwen.add(&format!("blk.{layer}.attn_output.bias"), &[32], &[0.5; 32]);
    }
    let message = error(&qwen);
    assert!(
        message.contains("`blk.0.attn_output.bias` is a bias"),
        "{message}"
    );
}

#[test]
fn tensors_that_are_not_known_are_refused() {
    for name in [
        "blk.0.ffn_gate_exps.weight",
        "blk.0.attn_q.weight.lora_a",
        "blk.0.attn_sinks.weight",
        "blk.2.attn_q.weight",
        "cls.weight",
        "v.patch_embd.weight",
    ] {
        let mut file = llama();
        file.add(name, &[32], &[1.0; 32]);
        let message = error(&file);
        let expected = if name.starts_with("blk.2") {
            "block_count"
        } else {
            name
        };
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn a_damaged_layout_is_refused_by_its_tensor() {
    const NAME: &str = "blk.0.attn_k.weight";
    type Change = fn(&mut File);
    let changes: [(Change, &str); 10] = [
        (
            |f| f.tensor(NAME).start = Some(1 << 40),
            "ends behind the file",
        ),
        (
            |f| f.tensor(NAME).start = Some(u64::MAX - 31),
            "ends behind the file",
        ),
        (
            |f| f.tensor(NAME).start = Some(7),
            "no multiple of the alignment",
        ),
        (
            |f| f.tensor(NAME).dims = vec![1 << 33, 1 << 33],
            "ends behind the file",
        ),
        (
            |f| f.tensor(NAME).dims = vec![1 << 60],
            "ends behind the file",
        ),
        (|f| f.tensor(NAME).dims = Vec::new(), "has 0 dimensions"),
        (|f| f.tensor(NAME).dims = vec![1; 9], "has 9 dimensions"),
        (|f| f.tensor(NAME).kind = 61, "quantised as number 61"),
        (
            |f| f.tensor(NAME).kind = 16,
            "quantised as IQ2_XXS; expected one of F32",
        ),
        // 32 is no row of blocks of 256, though 512 is two.
        (|f| f.tensor(NAME).kind = 12, "rows of 32 elements"),
    ];
    for (change, expected) in changes {
        refuses(change, &[NAME, expected]);
    }
    refuses(
        |file| file.tensor(NAME).start = Some(0),
        &["tensors follow each other"],
    );
    refuses(
        |file| {
            let copy = file.tensor(NAME).clone();
            file.tensors.push(copy);
        },
        &[NAME, "twice"],
    );
    refuses(
        |file| {
            let field = file.fields[4].clone();
            file.fields.push(field);
        },
        &["key `llama.feed_forward_length` is there twice"],
    );
    refuses(
        |file| file.tensor("token_embd.weight").dims = vec![99 * 32],
        &["token_embd.weight", "[3168]"],
    );
    // As many names as one likes for the same bytes.
    let mut file = llama();
    let start = file.tensors.iter().map(|t| t.bytes.len() as u64).sum();
    for i in 0..200 {
        file.add(&format!("blk.{}.attn_q.weight", i + 2), &[64], &[0.0; 64])
            .start = Some(start);
    }
    assert!(error(&file).contains("tensors follow each other"));
}

#[test]
fn other_alignments_are_kept() {
    let mut file = llama();
    file.set("general.alignment", 128);
    // Of 16 bytes, so that what follows is at another place by each.
    file.add("rope_freqs.weight", &[4], &[1.0; 4]);
    file.tensors.rotate_right(1);
    file.alignment = 128;
    let (_dir, path) = kept(&file);
    assert!(Pretrained::open(&path, Head::CausalLm).is_ok());
    file.alignment = 32;
    assert!(error(&file).contains("multiple of the alignment, 128"));
}

#[test]
fn no_file_ends_early_or_late() {
    let whole = llama().bytes();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tiny.gguf");
    let open = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        let opened = Pretrained::open(&path, Head::CausalLm).map(drop);
        opened.map_err(|error| error.to_string())
    };
    open(&whole).unwrap();
    for len in (0..whole.len()).step_by(997).chain([whole.len() - 40]) {
        let message = open(&whole[..len]).unwrap_err();
        assert!(message.contains("truncated"), "{len}: {message}");
    }
    let longer = [&whole[..], &[0; 40]].concat();
    let message = open(&longer).unwrap_err();
    assert!(
        message.contains("40 bytes are behind the last tensor"),
        "{message}"
    );
    for (at, what) in [(8, "tensors"), (16, "keys"), (24, "length of a key")] {
        let mut spoilt = whole.clone();
        spoilt[at..at + 8].copy_from_slice(&(1_u64 << 60).to_le_bytes());
        assert!(open(&spoilt).is_err(), "{what}");
    }
    for (version, expected) in [(1_u32, "version 1"), (3 << 24, "big-endian")] {
        let mut spoilt = whole.clone();
        spoilt[4..8].copy_from_slice(&version.to_le_bytes());
        assert!(open(&spoilt).unwrap_err().contains(expected));
    }
}

#[test]
fn lists_cost_no_more_than_the_file() {
    let list = |kind: u32, len: u64, bytes: usize| {
        let head = [&kind.to_le_bytes()[..], &len.to_le_bytes()].concat();
        Value::Raw(9, [head, vec![0; bytes]].concat())
    };
    for (kind, len, expected) in [
        (8, 1 << 62, "are left"),
        (0, u64::MAX, "are left"),
        (12, u64::MAX / 2, "truncated"),
        (9, 1 << 20, "a list of lists"),
        (99, 1, "unknown type 99"),
    ] {
        refuses(
            |file| {
                file.set("general.x", list(kind, len, 100));
            },
            &["`general.x`", expected],
        );
    }
    // One that nobody asks for is not read.
    let mut file = llama();
    file.set("general.x", list(0, 8 << 20, 8 << 20));
    let (_dir, path) = kept(&file);
    assert!(Pretrained::open(&path, Head::CausalLm).is_ok());
    // Damaged texts and numbers.
    let text = Value::Raw(8, [&2_u64.to_le_bytes()[..], &[0xff, 0xfe]].concat());
    refuses(
        |file| {
            file.set("general.x", text);
        },
        &["`general.x`", "damaged"],
    );
}

/// Expected: the keys that llama.cpp's package `gguf` knows.
#[test]
fn the_tables_have_every_key() {
    let text = fs::read(fixtures().join("fields/gguf.json")).unwrap();
    let keys: Vec<String> = serde_json::from_slice(&text).unwrap();
    assert!(keys.len() > 200);
    for key in keys {
        let table = match key.split('.').next() {
            Some("{arch}") => &ARCHITECTURE,
            Some("tokenizer") => &tokenizer::gguf::TABLE,
            _ => &GENERAL,
        };
        assert!(table.get(&key).is_some(), "{key}");
    }
}
