use ailora_graph::adapt;
use luminal::nn::linear::Linear;

#[adapt(qeury = principal(8), value = minor(8))]
struct Close {
    query: Linear<16, 16>,
    value: Linear<16, 16>,
}

#[adapt(w = principal(8), alpha = 16.0)]
struct Far {
    q: Linear<16, 16>,
    k: Linear<16, 16>,
    v: Linear<16, 16>,
}

fn main() {}
