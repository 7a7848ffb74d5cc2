//! Measures what matrix products take on this machine: `cargo run --release -p ailora-runtime --example costs`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let costs = ailora_runtime::costs::measure()?;
    println!("{}", serde_json::to_string_pretty(&costs)?);
    Ok(())
}
