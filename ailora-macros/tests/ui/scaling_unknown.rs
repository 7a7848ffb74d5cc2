use ailora_graph::adapt;
use luminal::nn::linear::Linear;

#[adapt(q = principal(8), scaling = rank_stabilised)]
struct Close {
    q: Linear<16, 16>,
}

#[adapt(q = principal(8), scaling = lora)]
struct Far {
    q: Linear<16, 16>,
}

#[adapt(q = principal(8), scaling = "classic")]
struct Text {
    q: Linear<16, 16>,
}

fn main() {}
