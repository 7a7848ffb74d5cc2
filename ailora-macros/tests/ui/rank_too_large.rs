use ailora_graph::adapt;
use luminal::nn::linear::Linear;

const RANK: usize = 6;

#[adapt(up = principal(5), down = minor(RANK + 2), gate = random(Self::RANK))]
struct Mlp {
    up: Linear<4, 16>,
    down: Linear<16, 4>,
    gate: Option<Linear<16, 16>>,
}

impl Mlp {
    const RANK: usize = 17;
}

fn main() {}
