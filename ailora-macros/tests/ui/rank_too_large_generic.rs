use ailora_graph::Visitor;
use ailora_graph::adapt;
use luminal::{
    nn::linear::Linear,
    prelude::{Graph, InitModule},
};

#[adapt(q = principal(R))]
struct Attention<const D: usize, const R: usize> {
    q: Linear<D, D>,
}

fn main() {
    let q = Linear::initialize(&mut Graph::default());
    Visitor::inventory(&Attention::<4, 8> { q });
}
