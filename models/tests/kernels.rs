//! The kernels of all families compile, which takes CUDA's compiler and no device.

mod support;

use std::path::PathBuf;

use ailora_graph::{AdaptConfig, Trainable, fuse::cost::Costs, method::Ailora};
use ailora_models::{head::Head, pretrained::Pretrained};
use ailora_runtime::{
    backend::Precision,
    cuda::{CudaError, compile},
    engine::Engine,
    init::initialise,
    passes::{Fusion, Passes},
    plan::{Plan, plan, separate},
    spectrum::Options,
};
use support::{File, fixtures, full_step};

/// The training step of an adapted model, fused, and of the whole model, with and without fusion.
fn plans(name: &str, head: Head) -> Vec<Plan> {
    let dir = fixtures().join(format!("parity/{name}-0"));
    let base = Pretrained::open(&dir, head).unwrap();
    let batch = File::open(&dir.join("io.safetensors")).batch(head);
    let full = full_step(&base.model, &batch);
    let config = AdaptConfig::method(&Ailora, 4);
    let sites = config.resolve(base.model.sites()).unwrap();
    let mut params = base.weights;
    initialise(&sites, &mut params, 1, &Options::default(), |_| {}).unwrap();
    let program = base.model.program(batch.shape(), true, true).unwrap();
    let passes = Passes {
        sites: &sites,
        trainable: &Trainable::Adapters,
        precision: Precision::F32,
    };
    let step = passes.step(&program).unwrap();
    let mut engine = Engine::with_fusion(params, Fusion::At(Costs::default()));
    let id = engine.compile(&step).unwrap();
    vec![plan(&full), separate(&full), engine.plan(id).clone()]
}

#[test]
fn all_families_compile_for_devices() {
    let cache = std::env::var_os("AILORA_CACHE").map(PathBuf::from);
    let families = [
        ("bert_cls", Head::classification(2)),
        ("deberta_v3_cls", Head::classification(2)),
        ("deberta_v2_cls", Head::classification(3)),
        ("llama_gqa_tied", Head::CausalLm),
        ("bart", Head::Seq2SeqLm { smoothing: 0.1 }),
    ];
    let plans: Vec<Plan> = families
        .into_iter()
        .flat_map(|(name, head)| plans(name, head))
        .collect();
    for (precision, arch) in [(Precision::F32, "sm_80"), (Precision::Bf16, "sm_90a")] {
        match compile(&plans, precision, arch, cache.clone()) {
            Ok(kernels) => assert!(kernels > 100, "{kernels}"),
            Err(error @ CudaError::Library { .. }) => eprintln!("skipped: {error}"),
            Err(error) => panic!("{error}"),
        }
    }
}
