//! Exported adapters: plain LoRA, pooler and head included, that computes what was trained.
//!
//! With `AILORA_EXPORT_DIR` set, what `tests/python/check_peft.py` takes stays there: for each
//! family the adapter's folder and `expected.safetensors`.

mod support;

use std::{collections::HashMap, fs, path::Path};

use ailora_graph::{
    AdaptConfig, Method, Strategy,
    adapt::adapt,
    adapter::Site,
    ir::{Draw, Program},
};
use ailora_models::{batch::Shape, model::Model, peft::Adapter, pretrained::Pretrained};
use ailora_runtime::{init::initialise, spectrum::Options, store::Params};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use support::{File, fixtures, labels, largest_difference, run};

/// The model, adapted.
fn program(model: &Model, shape: Shape, sites: &[Site]) -> Program {
    let program = model.program(shape, false, false).unwrap();
    adapt(&program, sites, false).unwrap()
}

/// As if trained: everything that trains is somewhere else than it started.
fn train(sites: &[Site], params: &mut Params) {
    let names = sites.iter().flat_map(|site| match site.spec.strategy {
        Strategy::Frozen => Vec::new(),
        Strategy::Full => std::iter::once(&site.weight)
            .chain(&site.bias)
            .cloned()
            .collect(),
        Strategy::LowRank { .. } => vec![site.lora_a(), site.lora_b()],
    });
    for name in names {
        let key = Draw::default().key(&name);
        for (i, x) in (0..).zip(&mut params[&name].data) {
            *x += 0.1 * key.normal(i) as f32;
        }
    }
}

/// The inputs that transformers was given, and our logits.
fn write_expected(path: &Path, io: &Path, logits: &[f64], outputs: usize) {
    let bytes = fs::read(io).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let names = ["input_ids", "attention_mask", "token_type_ids"].into_iter();
    let mut tensors: HashMap<&str, TensorView> = names
        .filter_map(|name| Some((name, file.tensor(name).ok()?)))
        .collect();
    let data: Vec<u8> = logits
        .iter()
        .flat_map(|&x| (x as f32).to_le_bytes())
        .collect();
    let shape = vec![logits.len() / outputs, outputs];
    let view = TensorView::new(Dtype::F32, shape, &data).unwrap();
    tensors.insert("logits", view);
    fs::write(path, safetensors::serialize(tensors, None).unwrap()).unwrap();
}

#[test]
fn exported_adapters_compute_what_was_trained() {
    for (family, heads) in [
        ("bert", &["classifier"][..]),
        ("roberta", &["classifier"]),
        ("deberta_v3", &["pooler", "classifier"]),
        ("deberta_v2", &["pooler", "classifier"]),
        ("bart", &["classification_head"]),
        ("llama", &["score"]),
    ] {
        let dir = fixtures().join(format!("parity/{family}_cls-0"));
        let base = Pretrained::open(&dir, labels(&dir)).unwrap();
        let model = &base.model;
        let outputs = model.config().num_labels();
        let mut config = AdaptConfig::method(Method::AiLora, 4);
        config.alpha = Some(6.0);
        let sites = config.resolve(model.sites()).unwrap();
        let mut params = base.weights.clone();
        initialise(&sites, &mut params, 1, &Options::default(), |_| {}).unwrap();
        train(&sites, &mut params);
        let batch = File::open(&dir.join("io.safetensors")).batch();
        let inputs = model.inputs(&batch);
        let logits = |sites: &[Site], params: &Params| {
            let program = program(model, Shape::new(batch.rows, batch.len), sites);
            run(&program, params, &inputs).remove(0).1
        };
        let expected = logits(&sites, &params);

        let scratch = tempfile::tempdir().unwrap();
        let kept = std::env::var_os("AILORA_EXPORT_DIR");
        let folder = kept.as_ref().map_or(scratch.path(), Path::new).join(family);
        fs::create_dir_all(&folder).unwrap();
        let heads: Vec<String> = heads.iter().map(|&head| head.to_owned()).collect();
        let adapter = Adapter::from_trained(&sites, &params).unwrap();
        adapter.save(&folder, family, model.head(), &heads).unwrap();
        if kept.is_some() {
            let io = dir.join("io.safetensors");
            let path = folder.join("expected.safetensors");
            write_expected(&path, &io, &expected, outputs);
        }

        let adapter = Adapter::load(&folder, &model.sites()).unwrap();
        let mut params = base.weights.clone();
        params.extend(adapter.tensors.clone());
        let plain = logits(&adapter.apply_to(model.sites()), &params);
        let difference = largest_difference(&plain, &expected);
        assert!(difference <= 1e-5, "{family}: {difference:e}");
        let mut params = base.weights.clone();
        adapter.merge_into(&model.sites(), &mut params).unwrap();
        let merged = logits(&[], &params);
        let difference = largest_difference(&merged, &expected);
        assert!(difference <= 1e-5, "{family} merged: {difference:e}");
        let untrained = logits(&[], &base.weights);
        assert!(largest_difference(&untrained, &expected) > 1e-2);
    }
}
