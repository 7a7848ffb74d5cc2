use ailora_graph::adapt;
use luminal::nn::linear::Linear;

#[adapt(q = principal, k = frozen(3), v = minor(), o = random(1, 2), up = full())]
struct Block {
    q: Linear<16, 16>,
    k: Linear<16, 16>,
    v: Linear<16, 16>,
    o: Linear<16, 16>,
    up: Linear<16, 16>,
}

fn main() {}
