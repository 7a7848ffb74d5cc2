use ailora_graph::adapt;
use luminal::nn::linear::Linear;

mod mine {
    pub const fn scaled() -> ailora_graph::AdapterSpec {
        ailora_graph::AdapterSpec::full()
    }

    pub const fn rank() -> usize {
        8
    }
}

#[adapt(q = princpal(8), k = frosen, v = zeta(8), o = mine::scald())]
struct Attention {
    q: Linear<16, 16>,
    k: Linear<16, 16>,
    v: Linear<16, 16>,
    o: Linear<16, 16>,
}

#[adapt(up = mine::rank())]
struct Mlp {
    up: Linear<16, 16>,
}

fn main() {}
