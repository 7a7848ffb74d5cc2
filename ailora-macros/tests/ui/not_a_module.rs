use ailora_graph::{Module, adapt};
use luminal::nn::linear::Linear;

struct Config {
    heads: usize,
}

#[derive(Module)]
struct Model {
    config: Option<Config>,
}

#[adapt(q = principal(8))]
struct Attention {
    q: Linear<16, 16>,
    #[module(flatten)]
    config: Config,
}

#[derive(Module)]
enum Either {
    One { config: Config },
}

fn main() {}
