use ailora_graph::adapt;
use luminal::nn::{linear::Linear, norm::RMSNorm};

#[adapt(norm = principal(8), layers = frozen)]
struct Block {
    norm: RMSNorm<16>,
    layers: Vec<Linear<16, 16>>,
}

#[adapt(q = principal(8))]
struct Generic<P: ailora_graph::Projection> {
    q: Vec<P>,
}

fn main() {}
