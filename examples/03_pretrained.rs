//! A pretrained model by its name: `cargo run --release --example 03_pretrained -- roberta-base`. A
//! folder, an id of the hub or, without an argument, the model that is built in.

use ailora::models::{head::Head, hub, pretrained::Pretrained};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let name = std::env::args().nth(1).unwrap_or("embedded".into());
    let folder = hub::resolve(&name)?;
    let mut base = Pretrained::open(&folder, Head::classification(3))?;
    base.initialise_head(0);
    println!("{} from {}", base.model.class(), folder.display());
    println!("{}", base.report);

    let tokenizer = base.tokenizer()?;
    let encoding = tokenizer.encode("How many apples are left?", None, 32)?;
    println!("token ids: {:?}", encoding.ids);
    for site in base.model.sites().iter().filter(|site| site.spec.trains()) {
        let [m, n] = [site.out_features, site.in_features];
        println!("{:55} {m} x {n}  {}", site.path, site.spec.strategy.name());
    }
    Ok(())
}
