//! The backend that suites run on: the processor, or what `AILORA_DEVICE` and `AILORA_PRECISION`
//! name.
#![allow(dead_code, reason = "each suite uses a part")]

use ailora_graph::ir::Draw;
use ailora_runtime::{
    backend::{Backend, BackendError, Precision},
    device::Device,
    engine::Engine,
    passes::Fusion,
    plan::Plan,
    run::{Outputs, Run, Value},
    store::Params,
    weights::Weights,
};

fn variable<T: std::str::FromStr<Err = String> + Default>(name: &str) -> T {
    let text = std::env::var(name).ok();
    text.map_or_else(T::default, |text| {
        text.parse()
            .unwrap_or_else(|error| panic!("{name}: {error}"))
    })
}

/// What products are computed in.
pub fn precision() -> Precision {
    variable("AILORA_PRECISION")
}

/// The package's folder: where cargo, or whoever runs what it built, says it is.
pub fn package() -> std::path::PathBuf {
    let folder = std::env::var_os("CARGO_MANIFEST_DIR");
    folder
        .unwrap_or_else(|| panic!("CARGO_MANIFEST_DIR is not set"))
        .into()
}

/// The backend.
pub fn backend() -> Box<dyn Backend> {
    let cache = std::env::var_os("AILORA_CACHE").map(|folder| folder.into());
    let opened = variable::<Device>("AILORA_DEVICE").open(precision(), cache);
    opened.unwrap_or_else(|error| panic!("{error}"))
}

/// Whether it is a device.
pub fn is_device() -> bool {
    variable::<Device>("AILORA_DEVICE") != Device::Cpu
}

/// An engine on the backend.
pub fn engine(params: Params, fusion: Fusion) -> Engine {
    Engine::on(backend(), params, fusion)
}

/// Whether products round nothing but their sums, so that what depends on ties, as which token is
/// likeliest, or on the sign of what is almost zero, as AdamW's first steps, can be compared.
pub fn is_float32() -> bool {
    precision() == Precision::F32
}

/// What a relative tolerance for float32 becomes where products round their operands: some tens of
/// roundings, as through the layers of the small models that are tested.
pub fn tolerance(float32: f64) -> f64 {
    const ROUNDINGS: f64 = 32.0;
    match precision() {
        Precision::F32 => float32,
        Precision::Tf32 => float32.max(ROUNDINGS * 2_f64.powi(-11)),
        Precision::Bf16 => float32.max(ROUNDINGS * 2_f64.powi(-9)),
    }
}

/// A plan, its parameters and what executes it.
pub struct Runner {
    backend: Box<dyn Backend>,
    plan: Plan,
    weights: Weights,
}

impl Runner {
    pub fn new(plan: Plan, params: &Params) -> Self {
        let mut backend = backend();
        let mut weights = Weights::new(params.clone());
        backend.add(&plan, &mut weights).unwrap();
        Self {
            backend,
            plan,
            weights,
        }
    }

    pub fn run(
        &mut self,
        inputs: &[(&str, Value<'_>)],
        draw: Draw,
    ) -> Result<Outputs<'_>, BackendError> {
        let Self {
            backend,
            plan,
            weights,
        } = self;
        backend.run(Run {
            id: 0,
            plan,
            weights,
            inputs,
            draw,
        })
    }
}
