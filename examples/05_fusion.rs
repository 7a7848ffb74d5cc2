//! What fusion makes of an adapted layer: the products of queries, keys and values, which share their
//! input, become two. The picture is written as SVG if a file is named.

use ailora::{
    AdaptConfig, Trainable,
    adapt::{Mode, adapt},
    explain::explain,
    fuse::cost::Costs,
    grad::gradients,
    hoist::hoist,
    method::Ailora,
    models::{batch::Shape, config::Config, head::Head, hub, model::Model},
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let config = Config::from_dir(&hub::resolve("embedded")?)?;
    let model = Model::new(config, Head::classification(4))?;
    let sites = AdaptConfig::method(&Ailora, 8).resolve(model.sites())?;
    let program = model.program(Shape::new(32, 128), true, true)?;
    let program = gradients(
        &adapt(&program, &sites, &Trainable::Adapters, Mode::Train)?,
        "loss",
    )?;
    let query = sites
        .iter()
        .find(|site| site.path.ends_with("layer.1.attention.self.query"));
    let query = query.ok_or("the model has no such projection")?;
    let explained = explain(&hoist(&program)?.step, query, &Costs::default())?;
    let explained = explained.ok_or("the program does not use it")?;
    print!("{explained}");
    if let Some(file) = std::env::args().nth(1) {
        std::fs::write(file, explained.svg())?;
    }
    Ok(())
}
