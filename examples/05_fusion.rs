//! What fusion makes of an adapted layer: the products of queries, keys and values, which share their
//! input, become two. The picture is written as SVG if a file is named.

use ailora::{
    AdaptConfig, Trainable,
    explain::explain,
    fuse::cost::Costs,
    ir::DType,
    method::Ailora,
    models::{batch::Shape, config::Config, head::Head, hub, model::Model},
    runtime::{
        backend::Precision,
        passes::{Fusion, Optimized, Passes, Pipeline},
    },
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let config = Config::from_dir(&hub::resolve("embedded")?)?;
    let model = Model::new(config, Head::classification(4))?;
    let sites = AdaptConfig::method(&Ailora, 8).resolve(model.sites())?;
    let program = model.program(Shape::new(32, 128), true, true)?;
    let passes = Passes {
        sites: &sites,
        trainable: &Trainable::Adapters,
        precision: Precision::F32,
    };
    let step = passes.step(&program)?;
    let query = sites
        .iter()
        .find(|site| site.path.ends_with("layer.1.attention.self.query"));
    let query = query.ok_or("the model has no such projection")?;
    let pipeline = Pipeline {
        matrices: DType::F32,
        fusion: Fusion::At(Costs::default()),
        checkpoints: false,
    };
    let Optimized { hoisted, fused } = pipeline.optimize(&step)?;
    let explained = explain(&hoisted.step, &fused, query)?;
    let explained = explained.ok_or("the program does not use it")?;
    print!("{explained}");
    if let Some(file) = std::env::args().nth(1) {
        std::fs::write(file, explained.svg())?;
    }
    Ok(())
}
