//! What a folder computes, by the definition of LoRA and straight from its files: what checks what
//! was written, and shares no code with what writes and reads adapters.

use std::path::Path;

use ailora_runtime::store::{Array, Params};
use safetensors::SafeTensors;
use serde_json::Value;

/// Whether a folder is of LoRA, of which alone a definition is here.
///
/// # Errors
/// The text says why `adapter_config.json` cannot be read.
pub fn applies(folder: &Path) -> Result<bool, String> {
    let path = folder.join("adapter_config.json");
    let bytes = std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let config: Value =
        serde_json::from_slice(&bytes).map_err(|error| format!("adapter_config.json: {error}"))?;
    Ok(config["peft_type"] == "LORA")
}

/// The weights `W + s B A` of a base with the LoRA of a folder, with `use_dora` each row of the length that
/// its magnitude gives, in float64 and rounded once; and the folder's other tensors in place of the base's. `base` has the names of PEFT's modules.
///
/// # Errors
/// The text says what of the files is not as it is in a folder that
/// [`Adapter::save`](super::Adapter::save) leaves.
pub fn weights(folder: &Path, base: &Params) -> Result<Params, String> {
    let bytes = |file| {
        let path = folder.join(file);
        std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))
    };
    let config: Value = serde_json::from_slice(&bytes("adapter_config.json")?)
        .map_err(|error| format!("adapter_config.json: {error}"))?;
    let file = bytes("adapter_model.safetensors")?;
    let file = SafeTensors::deserialize(&file).map_err(|error| error.to_string())?;
    let mut params = base.clone();
    for full in file.names() {
        let name = full.strip_prefix("base_model.model.").unwrap_or(full);
        let numbers = floats(&file, full)?;
        if let Some(module) = name.strip_suffix(".lora_A.weight") {
            let b = full.replace(".lora_A.weight", ".lora_B.weight");
            let scale = scale(&config, module)?;
            let weight = params.get_mut(&format!("{module}.weight"));
            let weight = weight.ok_or_else(|| format!("the base has no {module}"))?;
            let &[out, inputs] = weight.shape() else {
                return Err(format!("{module} is no matrix"));
            };
            let mut sum = product(&floats(&file, &b)?, &numbers, [out, inputs])?;
            for (sum, w) in sum.iter_mut().zip(weight.floats().iter()) {
                *sum = f64::from(*w) + scale * *sum;
            }
            if config["use_dora"] == true {
                let magnitudes = full.replace(".lora_A.weight", ".lora_magnitude_vector");
                lengthen(&mut sum, &floats(&file, &magnitudes)?)?;
            }
            for (w, x) in weight.floats_mut().iter_mut().zip(sum) {
                *w = x as f32;
            }
        } else if ![".lora_B.weight", ".lora_magnitude_vector"]
            .iter()
            .any(|end| name.ends_with(end))
        {
            let tensor = file.tensor(full).map_err(|error| error.to_string())?;
            let shape = tensor.shape().to_vec();
            let data = numbers.iter().map(|&x| x as f32).collect();
            // A bias in PEFT's layer around a module.
            let name = name.replace(".base_layer.", ".");
            params.insert(name, Array::new(shape, data));
        }
    }
    Ok(params)
}

/// `alpha / r` of a module.
fn scale(config: &Value, module: &str) -> Result<f64, String> {
    let of = |pattern: &str, field: &str| {
        let own = config[pattern].get(module).unwrap_or(&config[field]);
        own.as_f64().ok_or_else(|| format!("{field} is {own}"))
    };
    Ok(of("alpha_pattern", "lora_alpha")? / of("rank_pattern", "r")?)
}

/// Gives each row of a matrix a length; a row of zeros has none.
fn lengthen(matrix: &mut [f64], lengths: &[f64]) -> Result<(), String> {
    let columns = matrix.len() / lengths.len().max(1);
    if columns * lengths.len() != matrix.len() {
        return Err("magnitudes of another number of rows".into());
    }
    for (row, length) in matrix.chunks_exact_mut(columns.max(1)).zip(lengths) {
        let own = row.iter().map(|x| x * x).sum::<f64>().sqrt();
        if own > 0.0 {
            row.iter_mut().for_each(|x| *x *= length / own);
        }
    }
    Ok(())
}

/// `B A` of `B` `[out, r]` and `A` `[r, in]`.
fn product(b: &[f64], a: &[f64], [out, inputs]: [usize; 2]) -> Result<Vec<f64>, String> {
    let rank = a.len() / inputs.max(1);
    if rank == 0 || a.len() != rank * inputs || b.len() != out * rank {
        return Err("factors of different ranks".into());
    }
    let mut sum = vec![0.0; out * inputs];
    for (sum, b) in sum.chunks_exact_mut(inputs).zip(b.chunks_exact(rank)) {
        for (b, a) in b.iter().zip(a.chunks_exact(inputs)) {
            sum.iter_mut().zip(a).for_each(|(sum, a)| *sum += b * a);
        }
    }
    Ok(sum)
}

fn floats(file: &SafeTensors, name: &str) -> Result<Vec<f64>, String> {
    let tensor = file.tensor(name).map_err(|error| error.to_string())?;
    if tensor.dtype() != safetensors::Dtype::F32 {
        return Err(format!("{name} is {:?}", tensor.dtype()));
    }
    let (numbers, _) = tensor.data().as_chunks::<4>();
    let number = |&bytes: &[u8; 4]| f64::from(f32::from_le_bytes(bytes));
    Ok(numbers.iter().map(number).collect())
}
