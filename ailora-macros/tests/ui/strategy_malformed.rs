use ailora_graph::adapt;
use luminal::nn::linear::Linear;

#[adapt(q = 8, k = "principal(8)", v = principal(8)(2), o = |r| r)]
struct Attention {
    q: Linear<16, 16>,
    k: Linear<16, 16>,
    v: Linear<16, 16>,
    o: Linear<16, 16>,
}

fn main() {}
