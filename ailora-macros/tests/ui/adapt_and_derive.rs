use ailora_graph::{Module, adapt};
use luminal::nn::linear::Linear;

#[adapt(q = principal(8))]
#[derive(Module)]
struct Below {
    #[module(name = "query")]
    q: Linear<16, 16>,
}

#[derive(Module)]
#[adapt(q = principal(8))]
struct Above {
    #[module(name = "query")]
    q: Linear<16, 16>,
}

#[adapt(q = principal(8))]
#[derive(Default, ailora_graph::Module)]
struct ByPath {
    q: Option<Linear<16, 16>>,
}

fn main() {}
