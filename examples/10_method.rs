//! An adapter method of your own, from annotation to a merged model: IA3 (Liu et al., 2022), which
//! multiplies what a projection puts out by a trained vector. In the library an adapter is such a
//! file and a line in the list of methods; here it goes by its path, `v = mine::scaled()`.

use std::sync::Arc;

use ailora::{
    Trainable, Tuner,
    adapt::{Mode, adapt as adapted},
    ir::{Draw, Type},
    models::{
        batch::{Batch, Inputs, Shape, Targets},
        closed::{Table, Unknown},
        config::Config,
        family::{Architecture, Family, Network},
        fields::Fields,
        head::Head,
        model::Model,
        peft::Adapter,
        pretrained::{LoadReport, Pretrained},
    },
    nn::{Cx, Embedding, Linear, Tensor},
    runtime::{
        engine::Engine,
        store::{Array, Params},
    },
};

/// The method.
pub mod mine {
    use ailora::{
        AdapterSpec,
        adapter::{Layout, Site},
        ir::{Id, ProgramError},
        method::{Adapter, AdapterParameter, Field, Merged, Operands, Peft, Projected, Start},
    };

    /// What an annotation says.
    pub const fn scaled() -> AdapterSpec {
        AdapterSpec::adapted(&Scaled)
    }

    /// `y = l (x W^T + b)`, with a number of `l` for each output.
    #[derive(Debug)]
    struct Scaled;

    /// As PEFT has it, with no feed-forward layer, of which it scales the input instead.
    static PEFT: Peft = Peft {
        kind: "IA3",
        fields: &[
            ("feedforward_modules", Field::Empty),
            ("fan_in_fan_out", Field::Bool(false)),
            ("init_ia3_weights", Field::Bool(true)),
        ],
    };

    impl Scaled {
        /// `l`, which PEFT keeps as a column.
        fn scale(site: &Site) -> AdapterParameter {
            let name = format!("{}.ia3_l", site.path);
            AdapterParameter::trained(name, [site.out_features, 1], Start::Constant(1.0))
        }
    }

    impl Adapter for Scaled {
        fn name(&self) -> &'static str {
            "scaled"
        }

        fn parameters(&self, site: &Site, _: &[Site]) -> Vec<AdapterParameter> {
            vec![Self::scale(site)]
        }

        fn output(
            &self,
            p: &mut Projected<'_>,
            _: Operands,
            output: Id,
        ) -> Result<Id, ProgramError> {
            let scale = p.parameter(&Self::scale(p.site))?;
            let scale = p.program.reshape(scale, &[p.site.out_features])?;
            p.program.product(output, scale)
        }

        /// `diag(l) W` and `l b`.
        fn merged(
            &self,
            p: &mut Projected<'_>,
            weight: Id,
            bias: Option<Id>,
        ) -> Result<Option<Merged>, ProgramError> {
            let column = p.parameter(&Self::scale(p.site))?;
            let row = p.program.reshape(column, &[p.site.out_features])?;
            let rows = match p.site.layout {
                Layout::OutIn => column,
                Layout::InOut => row,
            };
            Ok(Some(Merged {
                weight: p.program.product(weight, rows)?,
                bias: bias.map(|bias| p.program.product(bias, row)).transpose()?,
            }))
        }

        fn peft(&self) -> Option<&'static Peft> {
            Some(&PEFT)
        }
    }
}

#[ailora::adapt(k = mine::scaled(), v = mine::scaled(), v_lr = 2.0)]
struct Encoder {
    words: Embedding,
    q: Linear,
    k: Linear,
    v: Linear,
}

#[ailora::adapt(classifier = full)]
struct Classifier {
    encoder: Encoder,
    classifier: Linear,
}

impl Network for Classifier {
    fn class(&self) -> &'static str {
        "ScaledForSequenceClassification"
    }

    fn hidden<'g>(&self, cx: &'g Cx, Shape { rows, len, .. }: Shape) -> Tensor<'g> {
        let Encoder { words, q, k, v } = &self.encoder;
        let x = words.forward(&cx.input("ids", Type::i32([rows, len])));
        let mask = cx.input("mask", Type::f32([rows, len]));
        let [q, k, v] = [q, k, v].map(|linear| linear.forward(&x));
        &x + &q.attention(&k, &v, &mask, 4, 0.0)
    }

    fn logits<'g>(&self, hidden: &Tensor<'g>) -> Tensor<'g> {
        let [rows, _, width] = hidden.shape()[..] else {
            return hidden.clone();
        };
        self.classifier
            .forward(&hidden.mean([1]).reshape([rows, width]))
    }
}

/// Trains, saves, loads and merges.
pub fn main() -> Result<(), Box<dyn std::error::Error>> {
    let model = model()?;
    let random = |name: &str, shape: &[usize]| {
        let key = Draw::default().key(name);
        let n: usize = shape.iter().product();
        let data = (0..n as u64).map(|i| 0.2 * key.normal(i) as f32).collect();
        let shape = shape.to_vec();
        Array::new(shape, data)
    };
    let base: Params = model
        .parameters()
        .iter()
        .map(|p| (p.name.clone(), random(&p.name, &p.shape)))
        .collect();
    let sites = model.sites();
    let batch = batch();

    // Train.
    let program = model.program(batch.shape(), true, true)?;
    let mut tuner = Tuner::new(&program, &sites, base.clone(), 1e-2)?;
    let inputs = model.inputs(&batch);
    let first = tuner.step(&inputs.values())?.loss;
    let mut last = first;
    for _ in 0..100 {
        last = tuner.step(&inputs.values())?.loss;
    }
    println!("loss {first:.4} at first, {last:.4} at last");
    assert!(last < 0.5 * first);
    let trained = tuner.trained()?;
    let mut params = base.clone();
    params.extend(trained.clone());
    let expected = logits(&model, &sites, params.clone(), &batch)?;

    // Save, as PEFT holds IA3, and load.
    let folder = tempfile::tempdir()?;
    let adapter = Adapter::from_trained(&model, &sites, &params, &Trainable::Adapters, &[])?;
    adapter.save(folder.path(), "base", model.head())?;
    let mut pretrained = Pretrained {
        dir: folder.path().to_owned(),
        model: model.clone(),
        weights: base.clone(),
        report: LoadReport::default(),
        sha256: String::new(),
    };
    let loaded = Adapter::load(folder.path(), &mut pretrained)?;
    println!("{}", loaded.report);
    let mut params = base.clone();
    params.extend(loaded.tensors.clone());
    let sites = loaded.apply_to(model.sites());
    let found = logits(&model, &sites, params, &batch)?;
    println!("loaded: logits differ by {:.1e}", apart(&found, &expected));
    assert!(apart(&found, &expected) == 0.0);

    // Merge.
    let mut merged = base.clone();
    loaded.merge_into(&mut merged)?;
    let found = logits(&model, &[], merged, &batch)?;
    println!("merged: logits differ by {:.1e}", apart(&found, &expected));
    assert!(apart(&found, &expected) < 1e-5);
    Ok(())
}

/// What the model computes of a batch, with these sites and parameters.
fn logits(
    model: &Model,
    sites: &[ailora::adapter::Site],
    params: Params,
    batch: &Batch,
) -> Result<Vec<f32>, Box<dyn std::error::Error>> {
    let program = model.program(batch.shape(), false, false)?;
    let program = adapted(&program, sites, &Trainable::Adapters, Mode::Infer)?;
    let mut engine = Engine::new(params);
    let plan = engine.compile(&program)?;
    let inputs = model.inputs(batch);
    let outputs = engine.run(plan, &inputs.values(), Draw::default())?;
    Ok(outputs.output("logits")?.to_vec())
}

fn apart(a: &[f32], b: &[f32]) -> f32 {
    let differences = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    differences.max_by(f32::total_cmp).unwrap_or(f32::NAN)
}

/// Is the first word one of the first fifty?
fn batch() -> Batch {
    let (rows, len) = (16, 8);
    let ids: Vec<i32> = (0..rows * len).map(|i| (i * 37 % 100) as i32).collect();
    let labels = ids.chunks(len).map(|row| i32::from(row[0] < 50)).collect();
    Batch {
        rows,
        len,
        type_ids: vec![0; rows * len],
        mask: vec![1.0; rows * len],
        ids,
        targets: Targets::classes(labels),
        indices: (0..rows).collect(),
    }
}

/// A model whose family has no file of its own: example 07 says more of that.
fn model() -> Result<Model, Box<dyn std::error::Error>> {
    let config = Config {
        family: &FAMILY,
        architecture: Arc::from((FAMILY.read)(Fields::new(&serde_json::Map::new()))?),
        notes: Vec::new(),
        json: serde_json::Map::new(),
    };
    Ok(Model::new(config, Head::classification(2))?)
}

static FAMILY: Family = Family {
    model_type: "scaled",
    base: "encoder",
    labels: 2,
    table: Table {
        file: "config.json of scaled",
        fields: &[],
        unknown: Unknown::Noted,
    },
    read: |_| Ok(Box::new(Small)),
};

#[derive(Debug)]
struct Small;

impl Architecture for Small {
    fn vocab_size(&self) -> usize {
        100
    }

    fn max_len(&self) -> usize {
        512
    }

    fn layers(&self) -> Vec<(&'static str, usize)> {
        Vec::new()
    }

    fn initializer_range(&self) -> f64 {
        0.1
    }

    fn build(&self, cx: &Cx, head: Head) -> Option<Box<dyn Network>> {
        let Head::Sequence { outputs, .. } = head else {
            return None;
        };
        let linear = || Linear::new(cx, 32, 32, true);
        Some(Box::new(Classifier {
            encoder: Encoder {
                words: Embedding::new(cx, 100, 32),
                q: linear(),
                k: linear(),
                v: linear(),
            },
            classifier: Linear::new(cx, 32, outputs, true),
        }))
    }

    fn inputs(&self, _: Head, batch: &Batch) -> Inputs {
        Inputs::default()
            .with_ids("ids", batch.ids.clone())
            .with_floats("mask", batch.mask.clone())
    }
}
