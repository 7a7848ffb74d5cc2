use ailora_graph::adapt;
use luminal::nn::linear::Linear;

#[adapt(
    query = principal(8),
    lr = 2.0,
    query_dropout = 0.1,
    query_scaling = classic,
    qeury_lr = 2.0,
    w_alpha = 2.0,
    droput = 0.1,
    magnitude = true
)]
struct Attention {
    query: Linear<16, 16>,
}

fn main() {}
