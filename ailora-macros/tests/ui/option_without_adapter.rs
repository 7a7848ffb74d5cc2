use ailora_graph::adapt;
use luminal::nn::linear::Linear;

#[adapt(
    q = frozen,
    k = full,
    q_lr = 2.0,
    q_alpha = 2.0,
    k_alpha = 2.0,
    v_lr = 2.0,
    v_alpha = 2.0,
    alpha = 2.0,
    dropout = 0.1
)]
struct Attention {
    q: Linear<16, 16>,
    k: Linear<16, 16>,
    v: Linear<16, 16>,
}

fn main() {}
