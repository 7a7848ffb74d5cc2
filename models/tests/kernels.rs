//! The kernels of all families compile, which takes CUDA's compiler and no device.

mod support;

use std::path::PathBuf;

use ailora_graph::{
    AdaptConfig, Trainable,
    adapt::{Mode, adapt},
    element_types::element_types,
    fuse::{cost::Costs, fuse},
    grad::gradients,
    hoist::hoist,
    ir::{DType, Program},
    method::Ailora,
    slice_pushdown::push_down_slices,
};
use ailora_models::{head::Head, pretrained::Pretrained};
use ailora_runtime::{
    cuda::{CudaError, compile},
    plan::{Plan, plan, separate},
};
use support::{File, fixtures, full_step};

/// The training step of an adapted model, fused, and of the whole model, with and without fusion; matrices
/// are kept as elements of a type.
fn plans(name: &str, head: Head, matrices: DType) -> Vec<Plan> {
    let dir = fixtures().join(format!("parity/{name}-0"));
    let base = Pretrained::open(&dir, head).unwrap();
    let batch = File::open(&dir.join("io.safetensors")).batch(head);
    let full = full_step(&base.model, &batch);
    let config = AdaptConfig::method(&Ailora, 4);
    let sites = config.resolve(base.model.sites()).unwrap();
    let program = base.model.program(batch.shape(), true, true).unwrap();
    let adapted =
        push_down_slices(&adapt(&program, &sites, &Trainable::Adapters, Mode::Train).unwrap())
            .unwrap();
    let step = gradients(&adapted, "loss").unwrap();
    let typed = |program: &Program| element_types(program, matrices).unwrap();
    let step = hoist(&typed(&step)).unwrap().step;
    let fused = fuse(&step, &Costs::default(), &[], |_| true).unwrap();
    let full = typed(&full);
    vec![plan(&full), separate(&full), plan(&fused.program)]
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
    for (matrices, arch) in [(DType::F32, "sm_80"), (DType::Bf16, "sm_90a")] {
        let all = families.iter();
        let plans: Vec<Plan> = all
            .flat_map(|&(name, head)| plans(name, head, matrices))
            .collect();
        match compile(&plans, arch, cache.clone()) {
            Ok(kernels) => assert!(kernels > 100, "{kernels}"),
            Err(error @ CudaError::Library { .. }) => eprintln!("skipped: {error}"),
            Err(error) => panic!("{error}"),
        }
    }
}
