use ailora_graph::adapt;
use luminal::nn::linear::Linear;

#[adapt(quary = principal(8), k = minr(8), k_alpha = 2.0, v = minor(0), v_lr = -1.0)]
pub struct Attention {
    pub query: Linear<16, 16>,
    pub k: Linear<16, 16>,
    pub v: Linear<16, 16>,
    #[module(skipp)]
    pub heads: usize,
}

fn main() {}
