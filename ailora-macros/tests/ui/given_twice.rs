use ailora_graph::adapt;
use luminal::nn::linear::Linear;

#[adapt(q = principal(8), alpha = 2.0, q = minor(8), alpha = 4.0)]
struct Attention {
    q: Linear<16, 16>,
}

fn main() {}
