use ailora_graph::{Module, adapt};
use luminal::nn::linear::Linear;

#[derive(Module)]
struct Model {
    #[module(skpi)]
    misspelt: u32,
    #[module(rename = "b")]
    unknown: u32,
    #[module]
    bare: u32,
    #[module()]
    empty: u32,
    #[module(skip, flatten)]
    two: u32,
    #[module(name)]
    no_name: u32,
    #[module(name = 3)]
    number: u32,
    #[module(name = "self..query")]
    no_segment: u32,
}

#[derive(Module)]
enum Either {
    One(#[module(skpi)] u32),
}

#[adapt(q = principal(8), k = minor(8))]
struct Attention {
    #[module(skip)]
    q: Linear<16, 16>,
    #[module(flatten)]
    k: Linear<16, 16>,
}

fn main() {}
