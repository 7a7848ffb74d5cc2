use ailora_graph::adapt;
use luminal::nn::linear::Linear;

#[adapt(q = principal(0), k = minor(-1), v = random(8.0), o = random("8"))]
struct Attention {
    q: Linear<16, 16>,
    k: Linear<16, 16>,
    v: Linear<16, 16>,
    o: Linear<16, 16>,
}

fn main() {}
