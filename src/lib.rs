#![doc = include_str!("../README.md")]

#[cfg(doctest)]
mod book {
    #[doc = include_str!("../docs/annotations.md")]
    mod annotations {}
    #[doc = include_str!("../docs/add-a-method.md")]
    mod add_a_method {}
}

pub mod bench;
pub mod compiler;
pub mod finetune;
pub mod limits;
pub mod log;
pub mod output;
pub mod pretrain;
pub mod run;
mod tuner;

pub use ailora_graph::{
    AdaptConfig, AdapterSpec, Module, Projection, Scaling, Strategy, Trainable, Visitor, adapt,
    adapter, checkpoint, config, element_types, explain, fuse, grad, hoist, ir, lift, method,
    module, nn, slice_pushdown,
};
pub use ailora_models as models;
pub use ailora_models::peft::{Switch, SwitchError};
pub use ailora_runtime as runtime;
pub use compiler::Compiler;
pub use tuner::{Tuner, TunerError};

/// What a file that annotates a model needs.
pub mod prelude {
    pub use crate::{
        AdaptConfig, Compiler, Module, Tuner, Visitor, adapt,
        method::{Ailora, Full, Lora, Milora, Pissa, Reailora, Rslora},
        nn::{Cx, Embedding, LayerNorm, Linear, Tensor},
    };
}
