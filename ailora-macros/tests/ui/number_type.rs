use ailora_graph::adapt;
use luminal::nn::linear::Linear;

const RANK: u32 = 8;
const RATE: f32 = 2.0;

#[adapt(q = principal(RANK), v = minor(8), v_lr = RATE)]
struct Attention {
    q: Linear<16, 16>,
    v: Linear<16, 16>,
}

fn main() {}
