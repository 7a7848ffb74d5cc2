use ailora_graph::adapt;
use luminal::nn::linear::Linear;

#[adapt(q = princpal(8), k = frosen, v = vera(8), o = 8)]
struct Attention {
    q: Linear<16, 16>,
    k: Linear<16, 16>,
    v: Linear<16, 16>,
    o: Linear<16, 16>,
}

fn main() {}
