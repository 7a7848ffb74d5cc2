//! What the annotations say, changed at run time: for all of a model's projections, and by name or
//! pattern. A misspelt name is an error that says what was meant.

use ailora::{AdaptConfig, finetune::Model, method::Pissa, models::task::Task};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let model = Model::open("embedded", &Task::parse("svamp")?, 0, false)?;
    let annotated = model.pretrained.model.sites();
    let text = r#"{
        "method": "ailora", "rank": 4,
        "sites": {
            "key": {"init": "random", "rank": 2},
            "layer.0.*": {"init": "frozen"},
            "output.dense": {"init": "full"}
        }
    }"#;
    let config: AdaptConfig = serde_json::from_str(text)?;
    for site in config.resolve(annotated.clone())? {
        if site.spec.trains() {
            println!("{:55} {}", site.path, site.spec.strategy.name());
        }
    }

    let misspelt = r#"{"sites": {"layer.1.attention.self.qery": {"rank": 2}}}"#;
    let misspelt: AdaptConfig = serde_json::from_str(misspelt)?;
    let error = misspelt.resolve(annotated.clone()).unwrap_err();
    println!("\nerror: {error}");

    let pissa = AdaptConfig::method(&Pissa, 8).resolve(annotated)?;
    let trained: usize = pissa.iter().map(|site| site.trainable()).sum();
    println!("\nPiSSA of rank 8 trains {trained} numbers");
    Ok(())
}
