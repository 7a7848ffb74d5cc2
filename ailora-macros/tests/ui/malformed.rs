use ailora_graph::adapt;
use luminal::nn::linear::Linear;

#[adapt]
struct Bare {
    q: Linear<16, 16>,
}

#[adapt()]
struct Empty {
    q: Linear<16, 16>,
}

#[adapt(q)]
struct NoValue {
    q: Linear<16, 16>,
}

#[adapt(q: principal(8))]
struct Colon {
    q: Linear<16, 16>,
}

#[adapt("q" = principal(8))]
struct Text {
    q: Linear<16, 16>,
}

#[adapt(q = principal(8) v = minor(8))]
struct NoComma {
    q: Linear<16, 16>,
    v: Linear<16, 16>,
}

fn main() {}
