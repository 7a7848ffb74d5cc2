//! Files of every format, changed at random from a seed, are read or refused: no panic, no abort, at
//! most 1 GB and 10 seconds each. The ordinary run has few mutants of each format;
//! `AILORA_MUTANTS=10000 cargo test --release --workspace campaign` is the campaign at length.
//!
//! One long file: the formats share the mutations.

mod gguf;
mod guard;
mod json;
mod mutate;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use ailora::{
    finetune::Settings,
    ir::Draw,
    models::{
        batch::{Batch, Shape, Targets},
        chat::{ChatTemplate, Controls, Conversation, Learn},
        config::Config,
        generate::{self, Generator, Options, Strategy},
        head::Head,
        peft::Adapter,
        pretrained::Pretrained,
        task::{Labels, Malformed, Task},
        tokenizer::Tokenizer,
    },
    run::read_yaml,
    runtime::{
        engine::Engine,
        init::initialise,
        spectrum::{self, SpectrumCache},
        store::{Array, Params},
        train::{Checkpoint, Progress},
    },
};
use guard::{Read, campaign};
use mutate::Random;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn parity(name: &str) -> PathBuf {
    fixtures().join("parity").join(name)
}

fn copy(from: &Path, to: &Path) {
    fs::copy(from, to).unwrap_or_else(|e| panic!("{}: {e}", from.display()));
}

/// Writes a mutant of a file, as bytes.
fn changed(random: &mut Random, from: &Path, to: &Path) {
    fs::write(to, mutate::bytes(random, &fs::read(from).unwrap())).unwrap();
}

/// Writes a mutant of a safetensors file: of its bytes, or of its header alone.
fn changed_safetensors(random: &mut Random, from: &Path, to: &Path) {
    let whole = fs::read(from).unwrap();
    let (len, rest) = whole.split_at(8);
    let (header, data) = rest.split_at(u64::from_le_bytes(len.try_into().unwrap()) as usize);
    let mutant = match random.chance(50) {
        true => mutate::bytes(random, &whole),
        false => {
            let header = json::change(random, std::str::from_utf8(header).unwrap());
            [&(header.len() as u64).to_le_bytes()[..], &header, data].concat()
        }
    };
    fs::write(to, mutant).unwrap();
}

fn changed_json(random: &mut Random, from: &Path, to: &Path) {
    fs::write(to, json::change(random, &fs::read_to_string(from).unwrap())).unwrap();
}

/// Opens a folder as a classifier, or what else its configuration says, and computes with it.
fn run(folder: &Path) -> Read {
    let config = Config::from_dir(folder)?;
    let head = match config.family.model_type {
        "llama" | "mistral" | "qwen2" => Head::CausalLm,
        _ => Head::classification(config.num_labels()),
    };
    let mut pretrained = Pretrained::open(folder, head)?;
    pretrained.initialise_head(0);
    let model = pretrained.model;
    let shape = Shape::new(1, 3);
    let program = model.program(shape, false, false)?;
    let mut engine = Engine::new(pretrained.weights);
    let plan = engine.compile(&program)?;
    let batch = Batch {
        rows: 1,
        len: 3,
        ids: vec![1, 2, 0],
        type_ids: vec![0; 3],
        mask: vec![1.0; 3],
        targets: Targets::default(),
        indices: vec![0],
    };
    let inputs = model.inputs(&batch);
    engine.run(plan, &inputs.values(), Draw::default())?;
    Ok(())
}

#[test]
fn campaign_of_safetensors() {
    let model = parity("bert_cls-0");
    let make = |random: &mut Random, folder: &Path| {
        copy(&model.join("config.json"), &folder.join("config.json"));
        let file = "model.safetensors";
        changed_safetensors(random, &model.join(file), &folder.join(file));
    };
    campaign("safetensors", make, run).some_of_both();
}

#[test]
fn campaign_of_shards() {
    let shards = fixtures().join("pickles/shards");
    let make = |random: &mut Random, folder: &Path| {
        copy(
            &parity("bert_cls-0").join("config.json"),
            &folder.join("config.json"),
        );
        for entry in fs::read_dir(&shards).unwrap() {
            let from = entry.unwrap().path();
            let to = folder.join(from.file_name().unwrap());
            match from.extension().is_some_and(|e| e == "json") {
                true => changed_json(random, &from, &to),
                false => copy(&from, &to),
            }
        }
    };
    campaign("shards", make, run).some_of_both();
}

#[test]
fn campaign_of_pickles() {
    let shards = fixtures().join("pickles/shards");
    let make = |random: &mut Random, folder: &Path| {
        copy(
            &parity("bert_cls-0").join("config.json"),
            &folder.join("config.json"),
        );
        let second = random.chance(50);
        for entry in fs::read_dir(&shards).unwrap() {
            let from = entry.unwrap().path();
            let name = from.file_name().unwrap().to_str().unwrap().to_owned();
            match name.contains(if second { "00002-of" } else { "00001-of" }) {
                true => changed(random, &from, &folder.join(name)),
                false => copy(&from, &folder.join(name)),
            }
        }
    };
    campaign("pickles", make, run).some_of_both();
}

#[test]
fn campaign_of_small_pickles() {
    let make = |random: &mut Random, folder: &Path| {
        copy(
            &parity("bert_cls-0").join("config.json"),
            &folder.join("config.json"),
        );
        let name = *random.pick(&["archive.bin", "older.bin"]);
        let from = fixtures().join("pickles").join(name);
        changed(random, &from, &folder.join("pytorch_model.bin"));
    };
    // Their tensors are no model's, so none of them makes one: that it gets as far is a success.
    campaign("small-pickles", make, |folder| match run(folder) {
        Err(error) if error.to_string().contains("missing") => Ok(()),
        other => other,
    })
    .some_of_both();
}

#[test]
fn campaign_of_gguf() {
    let whole = gguf::file(&parity("llama_gqa_tied-0"));
    let make = |random: &mut Random, folder: &Path| {
        fs::write(folder.join("m.gguf"), mutate::bytes(random, &whole)).unwrap();
    };
    campaign("gguf", make, |folder| {
        run(folder)?;
        let tokenizer = Tokenizer::from_dir(folder)?;
        tokenizer.encode("5 7 </s> x", None, 16)?;
        Ok(())
    })
    .some_of_both();
}

#[test]
fn campaign_of_model_configurations() {
    let models = [
        "bert_cls-0",
        "roberta_cls-0",
        "deberta_v3_cls-0",
        "bart_cls-0",
        "llama_scaled-0",
        "qwen2-0",
    ];
    let make = |random: &mut Random, folder: &Path| {
        let name: &&str = random.pick(&models);
        let model = parity(name);
        changed_json(
            random,
            &model.join("config.json"),
            &folder.join("config.json"),
        );
        copy(
            &model.join("model.safetensors"),
            &folder.join("model.safetensors"),
        );
    };
    campaign("config.json", make, run).some_of_both();
}

#[test]
fn campaign_of_generation_configurations() {
    const GENERATION: &str = r#"{"eos_token_id": [2, 5], "bos_token_id": 1, "pad_token_id": 0, "do_sample": false,
        "num_beams": 2, "length_penalty": 0.5, "early_stopping": true, "no_repeat_ngram_size": 2, "min_length": 3,
        "forced_eos_token_id": 2, "max_length": 20, "repetition_penalty": 1.2, "transformers_version": "5.17.0"}"#;
    let model = parity("llama_gqa_tied-0");
    let make = |random: &mut Random, folder: &Path| {
        for file in ["config.json", "model.safetensors"] {
            copy(&model.join(file), &folder.join(file));
        }
        let mutant = json::change(random, GENERATION);
        fs::write(folder.join("generation_config.json"), mutant).unwrap();
    };
    campaign("generation_config.json", make, |folder| {
        let pretrained = Pretrained::open(folder, Head::CausalLm)?;
        let (settings, _) = generate::Settings::read(folder, pretrained.model.config())?;
        let mut sites = pretrained.model.sites();
        for site in &mut sites {
            site.spec = ailora::AdapterSpec::frozen();
        }
        let mut engine = Engine::new(pretrained.weights);
        let mut generator = Generator::new(pretrained.model, sites);
        let given = [vec![3, 4]];
        let options = Options {
            strategy: match settings.beams {
                1 => Strategy::Greedy,
                beams => Strategy::Beam {
                    beams,
                    length_penalty: settings.length_penalty,
                    early_stopping: settings.early_stopping,
                },
            },
            max_new_tokens: settings.room(2, 64, 4).unwrap_or_default().min(20),
            ends: settings.ends,
            rules: settings.rules,
            numbers: Vec::new(),
        };
        generator.generate(&mut engine, &given, &options, |_, _| false, |_, _| {})?;
        Ok(())
    })
    .some_of_both();
}

/// WordPiece, and byte pairs between bytes, with all that stands around them.
fn tokenizers() -> [String; 2] {
    let words = [
        "[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "cat", "##s", "sat", "on", "mat",
    ];
    let vocab: serde_json::Value = words
        .iter()
        .zip(0..)
        .map(|(w, i)| (*w, serde_json::json!(i)))
        .collect();
    let special =
        |id: usize| serde_json::json!({"id": words[id], "ids": [id], "tokens": [words[id]]});
    let token = |id: usize| serde_json::json!({"SpecialToken": {"id": words[id], "type_id": 0}});
    let piece = |name: &str, n: u32| serde_json::json!({"Sequence": {"id": name, "type_id": n}});
    let added = |id: usize| {
        serde_json::json!({"id": id, "content": words[id], "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true})
    };
    let wordpiece = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [added(0), added(1), added(2), added(3)],
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
            "strip_accents": null, "lowercase": true},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "TemplateProcessing",
            "single": [token(2), piece("A", 0), token(3)],
            "pair": [token(2), piece("A", 0), token(3), piece("B", 1),
                {"SpecialToken": {"id": words[3], "type_id": 1}}],
            "special_tokens": {"[CLS]": special(2), "[SEP]": special(3)}},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": vocab},
    });
    let pairs = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [{"id": 0, "content": "<pad>", "single_word": false, "lstrip": true, "rstrip": false,
            "normalized": false, "special": true}],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"},
            {"type": "Replace", "pattern": {"Regex": "  +"}, "content": " "}]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": "\\p{L}+|\\s|."}, "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}]},
        "post_processor": {"type": "RobertaProcessing", "sep": ["<pad>", 0], "cls": ["<pad>", 0],
            "trim_offsets": true, "add_prefix_space": false},
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteLevel", "add_prefix_space": true,
            "trim_offsets": true, "use_regex": true}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": {"<pad>": 0, "t": 1, "h": 2, "e": 3, "c": 4, "a": 5, "th": 6, "the": 7, "ca": 8, "\u{120}": 9},
            "merges": [["t", "h"], ["th", "e"], ["c", "a"]]},
    });
    [wordpiece, pairs].map(|json| json.to_string())
}

/// What a tokenizer does with texts, and with the ids back.
fn encode(folder: &Path) -> Read {
    let tokenizer = Tokenizer::from_dir(folder)?;
    let texts = [
        ("the cats sat", Some("on the [SEP] mat")),
        ("\u{0}é 北京  🙂 ", None),
    ];
    for encoding in tokenizer.encode_batch(&texts, 9)? {
        tokenizer.decode(&encoding.ids)?;
    }
    tokenizer.encode_answer("the", "cat", Some(3), 16)?;
    Ok(())
}

#[test]
fn campaign_of_tokenizers() {
    let originals = tokenizers();
    let make = |random: &mut Random, folder: &Path| {
        let original = random.pick(&originals);
        fs::write(
            folder.join("tokenizer.json"),
            json::change(random, original),
        )
        .unwrap();
        let pad = if original.contains("[PAD]") {
            "[PAD]"
        } else {
            "<pad>"
        };
        let config = serde_json::json!({"pad_token": pad}).to_string();
        fs::write(folder.join("tokenizer_config.json"), config).unwrap();
    };
    campaign("tokenizer.json", make, encode).some_of_both();
}

/// Templates as far as they are Jinja, and what they make of a conversation.
#[test]
fn campaign_of_chat_templates() {
    let templates = fs::read_dir(fixtures().join("chats/templates")).unwrap();
    let mut templates: Vec<PathBuf> = templates.map(|entry| entry.unwrap().path()).collect();
    templates.sort();
    let make = |random: &mut Random, folder: &Path| {
        let template = random.pick(&templates).clone();
        changed(random, &template, &folder.join("x.jinja"));
    };
    let mut conversation = Conversation::of_user("hi 🙂");
    conversation.push("assistant", "<think>\n\n</think> yo ");
    conversation.push("user", "again");
    conversation.tools = Some(serde_json::json!([{"type": "function", "function": {"name": "f"}}]));
    let controls = ["<|im_start|>", "<|im_end|>"].map(str::to_owned);
    let write = |folder: &Path| -> Read {
        let path = folder.join("x.jinja");
        let template = ChatTemplate::given(&path.to_string_lossy())?;
        let compiled = template.compile("2024-07-26".parse()?)?;
        let controls = Controls {
            tokens: &controls,
            literal: true,
        };
        compiled.prompt(&conversation, controls)?;
        compiled.write(&conversation, Learn::Answers, controls)?;
        Ok(())
    };
    campaign("chat templates", make, write).some_of_both();
}

#[test]
fn campaign_of_tokenizer_configurations() {
    const CONFIG: &str = r#"{"pad_token": {"content": "[PAD]", "lstrip": false}, "cls_token": "[CLS]", "do_lower_case": true,
        "model_max_length": 512, "tokenizer_class": "BertTokenizer", "truncation_side": "left", "padding_side": "right",
        "added_tokens_decoder": {"0": {"content": "[PAD]", "special": true}}, "additional_special_tokens": ["[UNK]"],
        "model_input_names": ["input_ids", "attention_mask"]}"#;
    const SPECIAL: &str =
        r#"{"pad_token": "[PAD]", "sep_token": {"content": "[SEP]"}, "unk_token": "[UNK]"}"#;
    const ADDED: &str = r#"{"[PAD]": 0, "[SEP]": 3}"#;
    let original = &tokenizers()[0];
    let make = |random: &mut Random, folder: &Path| {
        fs::write(folder.join("tokenizer.json"), original).unwrap();
        let files = [
            ("tokenizer_config.json", CONFIG),
            ("special_tokens_map.json", SPECIAL),
            ("added_tokens.json", ADDED),
        ];
        let which = random.below(files.len());
        for (i, (name, text)) in files.into_iter().enumerate() {
            let bytes = match i == which {
                true => json::change(random, text),
                false => text.as_bytes().to_vec(),
            };
            fs::write(folder.join(name), bytes).unwrap();
        }
    };
    campaign("tokenizer_config.json", make, encode).some_of_both();
}

#[test]
fn campaign_of_vocabularies() {
    let sources = [
        ("bert", &["vocab.txt"][..]),
        ("roberta", &["vocab.json", "merges.txt"]),
        ("deberta", &["spm.model"]),
        ("llama", &["tokenizer.model"]),
    ];
    let make = |random: &mut Random, folder: &Path| {
        let (family, files) = *random.pick(&sources);
        let which = random.below(files.len());
        for (i, file) in files.iter().enumerate() {
            let from = fixtures().join("tokenizers").join(family).join(file);
            match (i == which, file.ends_with("json")) {
                (false, _) => copy(&from, &folder.join(file)),
                (true, true) => changed_json(random, &from, &folder.join(file)),
                (true, false) => changed(random, &from, &folder.join(file)),
            }
        }
    };
    campaign("vocabularies", make, encode).some_of_both();
}

#[test]
fn campaign_of_data() {
    let files = [
        (
            "rte",
            "index\tsentence1\tsentence2\tlabel\n0\tA cat.\tIt \"purrs\".\tentailment\n1\tNo\tYes\tnot_entailment\n",
        ),
        ("cola", "gj04\t1\t\tIt is so.\ngj05\t0\t*\tSo it is is.\n"),
        (
            "qqp",
            "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n0\t1\t2\tWhy?\tHow\nso?\t1\n1\t3\t4\tA?\tB?\t0\n",
        ),
        (
            "stsb",
            "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n0\ta\tb\t1\t2\tc\td\tA.\tB.\t2.5\n",
        ),
        (
            "svamp",
            r#"[{"ID": "1", "Body": "Ann had 7 pears.", "Question": "How many?", "Equation": "( 7.0 - 2.0 )", "Answer": 5.0, "Type": "Subtraction"}]"#,
        ),
        (
            "math",
            r#"[{"instruction": "Add 1 and 2.", "input": "", "output": "3", "answer": "3"}, {"instruction": "b", "output": "c"}]"#,
        ),
    ];
    let make = |random: &mut Random, folder: &Path| {
        let (task, text) = *random.pick(&files);
        let mutant = match text.starts_with('[') {
            true => json::change(random, text),
            false => mutate::text(random, text).into_bytes(),
        };
        fs::write(folder.join("task"), task).unwrap();
        fs::write(folder.join("data"), mutant).unwrap();
    };
    campaign("data", make, |folder| {
        let task = Task::parse(&fs::read_to_string(folder.join("task"))?)?;
        task.load(&[folder.join("data")], Labels::Optional, Malformed::Refused)?;
        Ok(())
    })
    .some_of_both();
}

#[test]
fn campaign_of_adapters() {
    let base = Pretrained::open(&parity("bert_cls-0"), Head::classification(2)).unwrap();
    let adapter = fixtures().join("peft/bert");
    let make = |random: &mut Random, folder: &Path| {
        let (config, weights) = ("adapter_config.json", "adapter_model.safetensors");
        match random.chance(50) {
            true => {
                changed_json(random, &adapter.join(config), &folder.join(config));
                copy(&adapter.join(weights), &folder.join(weights));
            }
            false => {
                copy(&adapter.join(config), &folder.join(config));
                changed_safetensors(random, &adapter.join(weights), &folder.join(weights));
            }
        }
    };
    campaign("adapters", make, |folder| {
        let mut base = base.clone();
        let adapter = Adapter::load(folder, &mut base)?;
        adapter.merge_into(&mut base.weights)?;
        Ok(())
    })
    .some_of_both();
}

#[test]
fn campaign_of_checkpoints() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("checkpoint.safetensors");
    let array = Array::new([3, 2], vec![0.5; 6]);
    let checkpoint = Checkpoint {
        tensors: Params::from_iter([("a".into(), array.clone()), ("b".into(), array)]),
        step: 7,
        draws: 9,
    };
    checkpoint.save(&path, "abc", &Progress::default()).unwrap();
    let make = |random: &mut Random, folder: &Path| {
        changed_safetensors(random, &path, &folder.join("checkpoint.safetensors"));
    };
    campaign("checkpoints", make, |folder| {
        Checkpoint::load(&folder.join("checkpoint.safetensors"), "abc")?;
        Ok(())
    })
    .some_of_both();
}

#[test]
fn campaign_of_spectra() {
    let base = Pretrained::open(&parity("bert_cls-0"), Head::classification(3)).unwrap();
    let sites: Vec<_> = base
        .model
        .sites()
        .into_iter()
        .filter(|site| site.spec.trains())
        .take(2)
        .collect();
    // On one thread, whose workspace, a gigabyte of addresses, is there after the first decomposition.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1);
    let pool = pool.build().unwrap();
    let start = |folder: &Path| {
        let mut params = base.weights.clone();
        let options = spectrum::Options {
            cache: Some(SpectrumCache::open(folder)),
            ..spectrum::Options::default()
        };
        let started = pool.install(|| initialise(&sites, &mut params, 0, &options, |_| {}));
        started.map(|()| params)
    };
    let cache = tempfile::tempdir().unwrap();
    // Not before it is this campaign's turn.
    let expected = OnceLock::new();
    let make = |random: &mut Random, folder: &Path| {
        expected.get_or_init(|| start(cache.path()).unwrap());
        let files = fs::read_dir(cache.path()).unwrap();
        let mut files: Vec<PathBuf> = files.map(|entry| entry.unwrap().path()).collect();
        files.sort();
        assert!(!files.is_empty(), "no files of spectra");
        let which = random.below(files.len());
        for (i, from) in files.iter().enumerate() {
            let to = folder.join(from.file_name().unwrap());
            match i == which {
                true => changed_safetensors(random, from, &to),
                false => copy(from, &to),
            }
        }
    };
    // A damaged spectrum is computed again: the start is the same, whatever lies there.
    let counts = campaign("spectra", make, |folder| {
        let same = Some(&start(folder)?) == expected.get();
        assert!(same, "another start than without the cache");
        Ok(())
    });
    assert_eq!(counts.refused, 0);
}

#[test]
fn campaign_of_settings() {
    let settings = serde_json::to_string(&Settings {
        task: "cola".into(),
        ..Settings::default()
    });
    let settings = settings.unwrap();
    let make = |random: &mut Random, folder: &Path| {
        let mutant = match random.chance(70) {
            true => json::change(random, &settings),
            false => mutate::text(
                random,
                "task: cola\nadapters: {rank: 4, method: pissa}\nlr: 1e-3\n",
            )
            .into_bytes(),
        };
        fs::write(folder.join("settings.yaml"), mutant).unwrap();
    };
    campaign("settings", make, |folder| {
        let settings: Settings = read_yaml(&folder.join("settings.yaml"))?;
        Ok(settings.check()?)
    })
    .some_of_both();
}
