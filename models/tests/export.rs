//! Exported adapters: plain LoRA, pooler and head included, that computes what was trained.
//!
//! With `AILORA_EXPORT_DIR` set, what `tests/python/check_peft.py` takes stays there: for each
//! family the adapter's folder and `expected.safetensors`.

mod support;

use std::{collections::HashMap, fs, path::Path};

use ailora_graph::{
    AdaptConfig, Strategy, Trainable,
    adapt::{Mode, adapt},
    adapter::Site,
    ir::{Draw, Program},
    method::Ailora,
};
use ailora_models::{
    batch::Shape,
    head::Head,
    model::Model,
    peft::{Adapter, proof},
    pretrained::Pretrained,
};
use ailora_runtime::{init::initialise, spectrum::Options, store::Params};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use support::{File, fixtures, largest_difference, run};

/// The model, adapted.
fn program(model: &Model, shape: Shape, sites: &[Site]) -> Program {
    let program = model.program(shape, false, false).unwrap();
    adapt(&program, sites, &Trainable::Adapters, Mode::Infer).unwrap()
}

/// As if trained: everything that trains is somewhere else than it started.
fn train(sites: &[Site], params: &mut Params) {
    let names = sites.iter().flat_map(|site| match site.spec.strategy {
        Strategy::Frozen => Vec::new(),
        Strategy::Full => std::iter::once(&site.weight)
            .chain(&site.bias)
            .cloned()
            .collect(),
        Strategy::Adapted(_) => vec![site.lora_a(), site.lora_b()],
    });
    for name in names {
        let key = Draw::default().key(&name);
        for (i, x) in (0..).zip(params[&name].floats_mut()) {
            *x += 0.1 * key.normal(i) as f32;
        }
    }
}

/// What transformers was given, and our logits.
fn write_expected(path: &Path, io: &Path, logits: &[(String, Vec<f64>)]) {
    let bytes = fs::read(io).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let names = ["input_ids", "attention_mask", "token_type_ids", "labels"].into_iter();
    let mut tensors: HashMap<&str, TensorView> = names
        .filter_map(|name| Some((name, file.tensor(name).ok()?)))
        .collect();
    let float = |&x: &f64| (x as f32).to_le_bytes();
    let data: Vec<Vec<u8>> = logits
        .iter()
        .map(|(_, logits)| logits.iter().flat_map(float).collect())
        .collect();
    for ((name, _), data) in logits.iter().zip(&data) {
        let shape = file.tensor(name).unwrap().shape().to_vec();
        tensors.insert(name, TensorView::new(Dtype::F32, shape, data).unwrap());
    }
    fs::write(path, safetensors::serialize(tensors, None).unwrap()).unwrap();
}

/// The largest difference of logits by the same name.
fn apart(a: &[(String, Vec<f64>)], b: &[(String, Vec<f64>)]) -> f64 {
    assert!(
        a.iter()
            .map(|(name, _)| name)
            .eq(b.iter().map(|(name, _)| name))
    );
    let pairs = a.iter().zip(b);
    pairs
        .map(|((_, a), (_, b))| largest_difference(a, b))
        .fold(0.0, f64::max)
}

#[test]
fn exported_adapters_compute_what_was_trained() {
    let seq2seq = Head::Seq2SeqLm { smoothing: 0.0 };
    for (name, head, heads) in [
        ("bert_cls", Head::classification(2), &["classifier"][..]),
        ("bert_qa", Head::QuestionAnswering, &["qa_outputs"]),
        ("roberta_cls", Head::classification(3), &["classifier"]),
        (
            "deberta_v3_cls",
            Head::classification(2),
            &["pooler", "classifier"],
        ),
        (
            "deberta_v2_cls",
            Head::classification(3),
            &["pooler", "classifier"],
        ),
        (
            "bart_cls",
            Head::classification(3),
            &["classification_head"],
        ),
        ("bart", seq2seq, &[]),
        ("llama_cls", Head::classification(3), &["score"]),
        ("llama_gqa_tied", Head::CausalLm, &[]),
        ("qwen2", Head::CausalLm, &[]),
    ] {
        let dir = fixtures().join(format!("parity/{name}-0"));
        let mut base = Pretrained::open(&dir, head).unwrap();
        let model = &base.model.clone();
        let mut config = AdaptConfig::method(&Ailora, 4);
        config.alpha = Some(6.0);
        let sites = config.resolve(model.sites()).unwrap();
        let mut params = base.weights.clone();
        initialise(&sites, &mut params, 1, &Options::default(), |_| {}).unwrap();
        train(&sites, &mut params);
        let batch = File::open(&dir.join("io.safetensors")).batch(head);
        let inputs = model.inputs(&batch);
        let logits = |sites: &[Site], params: &Params| {
            let mut outputs = run(&program(model, batch.shape(), sites), params, &inputs);
            outputs.retain(|(name, _)| name.ends_with("logits"));
            outputs
        };
        let expected = logits(&sites, &params);

        let scratch = tempfile::tempdir().unwrap();
        let kept = std::env::var_os("AILORA_EXPORT_DIR");
        let folder = kept.as_ref().map_or(scratch.path(), Path::new).join(name);
        fs::create_dir_all(&folder).unwrap();
        let adapter =
            Adapter::from_trained(model, &sites, &params, &Trainable::Adapters, &[]).unwrap();
        assert_eq!(adapter.modules, heads, "{name}");
        adapter.save(&folder, name, head).unwrap();
        if kept.is_some() {
            let io = dir.join("io.safetensors");
            let path = folder.join("expected.safetensors");
            write_expected(&path, &io, &expected);
        }

        let adapter = Adapter::load(&folder, &mut base).unwrap();
        let mut params = base.weights.clone();
        params.extend(adapter.tensors.clone());
        let plain = logits(&adapter.apply_to(model.sites()), &params);
        let difference = apart(&plain, &expected);
        assert!(difference <= 1e-5, "{name}: {difference:e}");
        let mut params = base.weights.clone();
        adapter.merge_into(&mut params).unwrap();
        let merged = logits(&[], &params);
        let difference = apart(&merged, &expected);
        assert!(difference <= 1e-5, "{name} merged: {difference:e}");
        let proof = proof::weights(&folder, &base.weights).unwrap();
        let difference = apart(&logits(&[], &proof), &expected);
        assert!(difference <= 1e-5, "{name} by definition: {difference:e}");
        let untrained = logits(&[], &base.weights);
        assert!(apart(&untrained, &expected) > 1e-2);
    }
}
