//! Fixtures, and running a program on a batch in float32 and in float64.
#![allow(dead_code, reason = "each test file uses its part")]

#[path = "../../../tests/device/mod.rs"]
pub mod device;

use std::path::{Path, PathBuf};

use ailora_graph::{
    AdaptConfig, Trainable,
    adapt::{Mode, adapt},
    grad::gradients,
    ir::{Bindings, Draw, Program, Tensor},
    method::Full,
};
use ailora_models::{
    batch::{Batch, Inputs, Targets},
    config::Config,
    head::Head,
    model::Model,
};
use ailora_runtime::{plan::plan, run::Value, store::Params};
use device::Runner;
use safetensors::{Dtype, SafeTensors};

/// The folder of fixtures at the repository's root.
pub fn fixtures() -> PathBuf {
    device::package().join("../tests/fixtures")
}

/// The classification head that a folder's `config.json` speaks of.
pub fn labels(dir: &Path) -> Head {
    Head::classification(Config::from_dir(dir).unwrap().num_labels())
}

/// Every tensor of a safetensors file, integers included.
pub struct File(Vec<u8>);

impl File {
    pub fn open(path: &Path) -> Self {
        Self(std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
    }

    pub fn names(&self) -> Vec<String> {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        file.names().into_iter().map(str::to_owned).collect()
    }

    pub fn shape(&self, name: &str) -> Vec<usize> {
        SafeTensors::deserialize(&self.0)
            .unwrap()
            .tensor(name)
            .unwrap()
            .shape()
            .to_vec()
    }

    pub fn floats(&self, name: &str) -> Vec<f64> {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let tensor = file.tensor(name).unwrap();
        assert_eq!(tensor.dtype(), Dtype::F32, "{name}");
        let (chunks, _) = tensor.data().as_chunks::<4>();
        chunks
            .iter()
            .map(|&bytes| f64::from(f32::from_le_bytes(bytes)))
            .collect()
    }

    pub fn ids(&self, name: &str) -> Option<Vec<i32>> {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let tensor = file.tensor(name).ok()?;
        assert_eq!(tensor.dtype(), Dtype::I64, "{name}");
        let (chunks, _) = tensor.data().as_chunks::<8>();
        Some(
            chunks
                .iter()
                .map(|&bytes| i64::from_le_bytes(bytes) as i32)
                .collect(),
        )
    }

    /// The inputs that transformers was given, as a batch for a model with this head.
    pub fn batch(&self, head: Head) -> Batch {
        let [rows, len] = self.shape("input_ids")[..] else {
            panic!("input_ids is no matrix");
        };
        let mask = self.ids("attention_mask").unwrap();
        Batch {
            rows,
            len,
            ids: self.ids("input_ids").unwrap(),
            type_ids: self.ids("token_type_ids").unwrap_or(vec![0; rows * len]),
            mask: mask.into_iter().map(|x| x as f32).collect(),
            targets: self.targets(head, len),
            indices: (0..rows).collect(),
        }
    }
}

impl File {
    /// Labels of rows, of tokens, or positions of spans.
    fn targets(&self, head: Head, len: usize) -> Targets {
        let span = self.ids("start_positions").zip(self.ids("end_positions"));
        if let Some((starts, ends)) = span {
            return Targets::spans(&starts, &ends, len);
        }
        let Some(labels) = self.ids("labels") else {
            return Targets::default();
        };
        match head {
            Head::CausalLm => Targets::next_tokens(&labels, len),
            Head::Seq2SeqLm { .. } => Targets::texts(labels, self.shape("labels")[1]),
            Head::MaskedLm => Targets::tokens(labels),
            Head::Sequence { .. } | Head::QuestionAnswering => Targets::classes(labels),
        }
    }
}

/// The program of one training step of every parameter, without dropout.
pub fn full_step(model: &Model, batch: &Batch) -> Program {
    let program = model.program(batch.shape(), false, true).unwrap();
    let config = AdaptConfig::method(&Full, 1);
    let sites = config.resolve(model.sites()).unwrap();
    let adapted = adapt(&program, &sites, &Trainable::All, Mode::Train).unwrap();
    gradients(&adapted, "loss").unwrap()
}

/// Every output, from the backend.
pub fn run(program: &Program, params: &Params, inputs: &Inputs) -> Vec<(String, Vec<f64>)> {
    let plan = plan(program);
    let mut runner = Runner::new(plan.clone(), params);
    let outputs = runner.run(&inputs.values(), Draw::default()).unwrap();
    let value = |name: &str| {
        outputs
            .get(name)
            .unwrap()
            .iter()
            .map(|&x| f64::from(x))
            .collect()
    };
    plan.outputs
        .keys()
        .map(|name| (name.to_string(), value(name)))
        .collect()
}

/// Every output, from the float64 interpreter.
pub fn eval(program: &Program, params: &Params, inputs: &Inputs) -> Vec<(String, Vec<f64>)> {
    let widen = |data: &[f32]| data.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
    let mut bindings: Bindings = params
        .iter()
        .map(|(name, array)| {
            (
                name.clone(),
                Tensor::new(array.shape().to_vec(), widen(&array.floats())),
            )
        })
        .collect();
    for (name, value) in inputs.values() {
        let data = match value {
            Value::F32(data) => widen(data),
            Value::I32(data) => data.iter().map(|&x| f64::from(x)).collect(),
        };
        let shape = program
            .inputs()
            .find(|leaf| &*leaf.name == name)
            .map(|leaf| &leaf.ty.shape);
        if let Some(shape) = shape {
            bindings.insert(name.to_owned(), Tensor::new(shape.clone(), data));
        }
    }
    let outputs = program.eval(&bindings, Draw::default()).unwrap();
    outputs
        .into_iter()
        .map(|(name, value)| (name.to_string(), value.data))
        .collect()
}

/// The largest difference of two values; infinite if their lengths differ or one is NaN.
pub fn largest_difference(a: &[f64], b: &[f64]) -> f64 {
    if a.len() != b.len() {
        return f64::INFINITY;
    }
    let differences = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, |most, x| {
        if x <= most {
            most
        } else if x.is_nan() {
            f64::INFINITY
        } else {
            x
        }
    })
}

/// The norm of the difference, relative to that of `expected`; infinite if the lengths differ.
pub fn relative_difference(found: &[f64], expected: &[f64]) -> f64 {
    if found.len() != expected.len() {
        return f64::INFINITY;
    }
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
    let difference = norm(&mut found.iter().zip(expected).map(|(a, b)| a - b));
    difference / norm(&mut expected.iter().copied())
}

/// A batch of one sequence without labels.
pub fn one_row(ids: &[i32]) -> Batch {
    Batch {
        rows: 1,
        len: ids.len(),
        ids: ids.to_vec(),
        type_ids: vec![0; ids.len()],
        mask: vec![1.0; ids.len()],
        targets: Targets::default(),
        indices: vec![0],
    }
}
