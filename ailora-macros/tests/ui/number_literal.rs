use ailora_graph::adapt;
use luminal::nn::linear::Linear;

#[adapt(
    q = principal(8),
    q_lr = 0,
    q_alpha = -1.0,
    k = full,
    k_lr = 1e999,
    alpha = true,
    dropout = 1.0
)]
struct Attention {
    q: Linear<16, 16>,
    k: Linear<16, 16>,
}

#[adapt(q = principal(8), dropout = -0.1)]
struct Dropout {
    q: Linear<16, 16>,
}

fn main() {}
