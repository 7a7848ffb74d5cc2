use ailora_graph::adapt;
use luminal::nn::linear::Linear;

fn rank() -> usize {
    8
}

#[adapt(q = principal(rank()))]
struct Attention {
    q: Linear<16, 16>,
}

fn main() {}
