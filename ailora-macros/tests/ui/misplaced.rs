use ailora_graph::{Module, adapt};
use luminal::nn::linear::Linear;

#[adapt(q = principal(8))]
enum Either {
    One(Linear<16, 16>),
}

#[adapt(q = principal(8))]
struct Tuple(Linear<16, 16>);

#[adapt(q = principal(8))]
union Bits {
    q: u32,
}

#[derive(Module)]
union Same {
    q: u32,
}

#[adapt(q = principal(8))]
fn attention() {}

fn main() {}
