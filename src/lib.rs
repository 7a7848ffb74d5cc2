#![doc = include_str!("../README.md")]

pub mod bench;
pub mod compiler;
pub mod finetune;
pub mod log;
pub mod pretrain;

pub use ailora_graph::{
    AdaptConfig, AdapterSpec, Init, Method, Module, Projection, Scaling, Strategy, Visitor, adapt,
    adapter, explain, fuse, grad, hoist, ir, lift, module, narrow, nn,
};
pub use ailora_models as models;
pub use ailora_runtime as runtime;
pub use compiler::Compiler;

/// What a file that annotates a model needs.
pub mod prelude {
    pub use crate::{
        AdaptConfig, Compiler, Method, Module, Visitor, adapt,
        nn::{Cx, Embedding, LayerNorm, Linear, Tensor},
    };
}
