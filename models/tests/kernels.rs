//! The kernels of all families compile, which takes CUDA's compiler and no device.

mod support;

use std::path::PathBuf;

use ailora_graph::{AdaptConfig, Trainable, fuse::cost::Costs, ir::Program, method::Ailora};
use ailora_models::{head::Head, pretrained::Pretrained};
use ailora_runtime::{
    backend::Precision,
    cuda::{CudaError, compile},
    passes::{Fusion, Passes, Pipeline},
    plan::{Plan, plan, separate},
};
use support::{File, fixtures, full_step};

/// The training step of an adapted model, fused, and of the whole model, with and without fusion; matrices
/// are kept in a precision.
fn plans(name: &str, head: Head, precision: Precision) -> Vec<Plan> {
    let dir = fixtures().join(format!("parity/{name}-0"));
    let base = Pretrained::open(&dir, head).unwrap();
    let batch = File::open(&dir.join("io.safetensors")).batch(head);
    let full = full_step(&base.model, &batch);
    let config = AdaptConfig::method(&Ailora, 4);
    let sites = config.resolve(base.model.sites()).unwrap();
    let program = base.model.program(batch.shape(), true, true).unwrap();
    let passes = Passes {
        sites: &sites,
        trainable: &Trainable::Adapters,
        precision,
    };
    let step = passes.step(&program).unwrap();
    let optimized = |program: &Program, fusion| {
        let pipeline = Pipeline {
            matrices: precision.matrices(),
            fusion,
            checkpoints: false,
        };
        pipeline.optimize(program).unwrap().fused.program
    };
    let fused = optimized(&step, Fusion::At(Costs::default()));
    let full = optimized(&full, Fusion::Off);
    vec![plan(&full), separate(&full), plan(&fused)]
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
    for (precision, arch) in [(Precision::F32, "sm_80"), (Precision::Bf16, "sm_90a")] {
        let all = families.iter();
        let plans: Vec<Plan> = all
            .flat_map(|&(name, head)| plans(name, head, precision))
            .collect();
        match compile(&plans, arch, cache.clone()) {
            Ok(kernels) => assert!(kernels > 100, "{kernels}"),
            Err(error @ CudaError::Library { .. }) => eprintln!("skipped: {error}"),
            Err(error) => panic!("{error}"),
        }
    }
}
