//! What is saved and loaded, on BERT.

use ailora_graph::{
    AdaptConfig,
    adapt::{Mode, adapt},
    adapter::{Site, Trainable},
    method::{
        Ia3, LoraFa, LoraPlus, Method, Mica, Olora, Vera,
        constructors::{minor, olora, principal},
    },
};
use ailora_models::{batch::Batch, head::Head, peft::Adapter, pretrained::Pretrained};
use ailora_runtime::{init::initialise, spectrum::Options, store::Params};

use super::{
    moved, near,
    support::{File, fixtures, run},
};

pub fn bert() -> Pretrained {
    let dir = fixtures().join("parity/bert_cls-0");
    Pretrained::open(&dir, Head::classification(2)).unwrap()
}

fn batch() -> Batch {
    let file = fixtures().join("parity/bert_cls-0/io.safetensors");
    File::open(&file).batch(Head::classification(2))
}

fn logits(base: &Pretrained, sites: &[Site], params: &Params) -> Vec<f64> {
    let batch = batch();
    let program = base.model.program(batch.shape(), false, false).unwrap();
    let program = adapt(&program, sites, &Trainable::Adapters, Mode::Infer).unwrap();
    let mut outputs = run(&program, params, &base.model.inputs(&batch));
    outputs.retain(|(name, _)| name == "logits");
    outputs.remove(0).1
}

/// A method's adapters on BERT, what was trained moved.
pub fn on_bert(base: &Pretrained, method: &'static dyn Method) -> (Vec<Site>, Params) {
    let rank = if method.name() == "vera" { 5 } else { 3 };
    let config = AdaptConfig::method(method, rank);
    let sites = config.resolve(base.model.sites()).unwrap();
    let mut params = base.weights.clone();
    initialise(&sites, &mut params, 1, &Options::default(), |_| {}).unwrap();
    let own: Vec<Site> = sites
        .iter()
        .filter(|site| site.is_adapted())
        .cloned()
        .collect();
    (sites, moved(&own, &params))
}

pub const FOLDERS: [&dyn Method; 6] = [&Vera, &Ia3, &Olora, &Mica, &LoraFa, &LoraPlus];

/// What is saved gives the same logits when it is loaded, without drawing or decomposing
/// again what was random, and the base has its bytes.
#[test]
fn what_is_saved_is_what_is_loaded() {
    let head = Head::classification(2);
    for method in FOLDERS {
        let mut base = bert();
        let untouched = base.weights.clone();
        let (sites, params) = on_bert(&base, method);
        let expected = logits(&base, &sites, &params);
        assert!(!near(&expected, &logits(&base, &[], &untouched), 1e-3));
        let mut adapter =
            Adapter::from_trained(&base.model, &sites, &params, &Trainable::Adapters, &[]).unwrap();
        for left_out in [false, true] {
            if left_out {
                adapter.leave_out_draws().unwrap();
            }
            let folder = tempfile::tempdir().unwrap();
            adapter.save(folder.path(), "bert_cls-0", head).unwrap();
            let loaded = Adapter::load(folder.path(), &mut base).unwrap();
            let mut beside = untouched.clone();
            beside.extend(loaded.tensors.clone());
            let found = logits(&base, &loaded.apply_to(base.model.sites()), &beside);
            assert!(near(&found, &expected, 1e-5), "{}", method.name());
            let mut merged = untouched.clone();
            loaded.merge_into(&mut merged).unwrap();
            assert!(
                near(&logits(&base, &[], &merged), &expected, 1e-5),
                "{}",
                method.name()
            );
        }
        for (name, array) in &untouched {
            assert!(params[name].same_values(array), "{}: {name}", method.name());
            assert!(
                base.weights[name].same_values(array),
                "{}: {name}",
                method.name()
            );
        }
    }
}

/// A start from the weight leaves the base alone: another adapter beside it computes what it does by itself.
#[test]
fn another_adapter_does_not_see_a_start_from_the_weight() {
    let mut base = bert();
    let folder = fixtures().join("methods/bert-lora");
    let other = Adapter::load(&folder, &mut base).unwrap();
    let sites = other.apply_to(base.model.sites());
    let mut alone = base.weights.clone();
    alone.extend(other.tensors.clone());
    let (_, mut beside) = on_bert(&base, &Olora);
    beside.extend(other.tensors.clone());
    let [alone, beside] = [alone, beside].map(|params| logits(&base, &sites, &params));
    assert_eq!(alone, beside);
}

/// Matrices that the seed does not give are not left out, nor is a folder read that says two things.
#[test]
fn drawn_matrices_are_left_out_only_if_the_seed_gives_them() {
    let mut base = bert();
    let (sites, params) = on_bert(&base, &Vera);
    let save = |params: &Params| {
        Adapter::from_trained(&base.model, &sites, params, &Trainable::Adapters, &[]).unwrap()
    };
    let mut others = params.clone();
    others["vera_B"].floats_mut()[3] += 1.0;
    let error = save(&others).leave_out_draws().unwrap_err().to_string();
    assert!(
        error.contains("`vera_B` is not what seed 0 draws"),
        "{error}"
    );
    let folder = tempfile::tempdir().unwrap();
    save(&params)
        .save(folder.path(), "x", Head::classification(2))
        .unwrap();
    let config = folder.path().join("adapter_config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    for (from, to, says) in [
        (
            "\"save_projection\": true",
            "\"save_projection\": false",
            "set it to true, or remove",
        ),
        (
            "\"projection_prng_key\": 0",
            "\"projection_prng_key\": -1",
            "projection_prng_key",
        ),
        ("\"d_initial\": 0.1", "\"d_initial\": \"x\"", "d_initial"),
        ("\"bias\": \"none\"", "\"bias\": \"vera_only\"", "bias"),
    ] {
        assert!(text.contains(from), "{text}");
        std::fs::write(&config, text.replace(from, to)).unwrap();
        let error = Adapter::load(folder.path(), &mut base)
            .unwrap_err()
            .to_string();
        assert!(error.contains(says), "{error}");
    }
}

/// Beside the published weights, what is saved is what was trained beside the residual; for each
/// start, scale, and with or without ranks of single projections.
#[test]
fn starts_from_the_weight_are_saved_as_plain_lora() {
    let mut base = bert();
    for adapter in [principal(3), minor(3), olora(3)] {
        for scaling in ["classic", "rank_stabilized"] {
            for pattern in ["", r#", "value": {"rank": 2, "alpha": 7.0}"#] {
                let strategy = adapter.strategy.name();
                let config = format!(
                    r#"{{"alpha": 5.0, "scaling": "{scaling}", "sites": {{
                        "query": {{"init": "{strategy}"}}, "v": {{"init": "{strategy}"}}{pattern}}}}}"#
                );
                let config: AdaptConfig = serde_json::from_str(&config).unwrap();
                let sites = config.resolve(base.model.sites()).unwrap();
                let mut params = base.weights.clone();
                initialise(&sites, &mut params, 1, &Options::default(), |_| {}).unwrap();
                let own: Vec<Site> = sites
                    .iter()
                    .filter(|site| site.is_adapted())
                    .cloned()
                    .collect();
                let params = moved(&own, &params);
                let expected = logits(&base, &sites, &params);
                let saved =
                    Adapter::from_trained(&base.model, &sites, &params, &Trainable::Adapters, &[]);
                let folder = tempfile::tempdir().unwrap();
                saved
                    .unwrap()
                    .save(folder.path(), "x", Head::classification(2))
                    .unwrap();
                let loaded = Adapter::load(folder.path(), &mut base).unwrap();
                let mut beside = base.weights.clone();
                beside.extend(loaded.tensors.clone());
                let found = logits(&base, &loaded.apply_to(base.model.sites()), &beside);
                assert!(
                    near(&found, &expected, 1e-5),
                    "{strategy} {scaling} {pattern}"
                );
            }
        }
    }
}
