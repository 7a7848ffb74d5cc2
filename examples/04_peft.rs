//! A run from the library, and the adapter that it leaves, which PEFT loads as plain LoRA:
//!
//! ```python
//! base = AutoModelForSequenceClassification.from_pretrained("models/data/embedded", num_labels=4)
//! model = PeftModel.from_pretrained(base, "FOLDER")
//! ```

use ailora::{
    AdaptConfig,
    finetune::Settings,
    method::Ailora,
    output::Existing,
    run::Stage,
    runtime::train::{Control, Event},
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let settings = Settings {
        task: "svamp".into(),
        adapters: AdaptConfig::method(&Ailora, 4),
        rows: Some(64),
        epochs: 1,
        ..Settings::default()
    };
    let run = settings.run()?;
    run.fit(folder.path(), Existing::Refuse, |stage| {
        if let Stage::Training(Event::Evaluated { evaluation, .. }) = stage {
            println!(
                "loss {:.3}, {:?}",
                evaluation.train_loss, evaluation.metrics
            );
        }
        Control::Continue
    })?;
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        let bytes = std::fs::metadata(folder.path().join(file))?.len();
        println!("{file}: {bytes} bytes");
    }
    let config = std::fs::read_to_string(folder.path().join("adapter_config.json"))?;
    println!("{config}");
    Ok(())
}
