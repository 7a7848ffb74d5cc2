use ailora_graph::adapt;
use luminal::nn::linear::Linear;

const RANK: usize = 8;
const RATE: f64 = 2.0;

#[adapt(
    q = principal(RANK - 8),
    q_lr = -RATE,
    q_alpha = f64::NAN,
    v = minor(RANK),
    alpha = f64::INFINITY,
    dropout = RATE / 2.0
)]
struct Attention {
    q: Linear<16, 16>,
    v: Linear<16, 16>,
}

fn main() {}
