//! A model of your own, from its annotation to an adapter: a small vision transformer learns which
//! quarter of an image is the brightest. The run is interrupted and resumed; what it leaves is loaded,
//! evaluated and merged.
//!
//! `cargo run --release --example 12_vit` computes on the CPU, `... 12_vit -- cuda` on a device.

use std::path::Path;

use ailora::{
    output::Existing,
    prelude::*,
    run::{Batch, BuildError, Built, Columns, Own, Report, Run, Stage, backend},
    runtime::{
        backend::Precision,
        device::Device,
        store::{Array, Params},
        train::{Control, Event, Headline},
    },
};

type Error = Box<dyn std::error::Error>;

const WIDTH: usize = 32;

#[adapt(query = principal(4), value = minor(4), value_lr = 2.0)]
struct Block {
    norm: LayerNorm,
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
}

#[adapt(patches = full, head = full)]
struct Vit {
    patches: Linear,
    blocks: Vec<Block>,
    norm: LayerNorm,
    head: Linear,
}

/// Images of 16 x 16 pixels as 16 patches, and which of 4 classes they are of.
pub fn vit(batch: &Batch<'_>) -> Result<Built, BuildError> {
    let (cx, rows) = (batch.cx(), batch.rows());
    let linear = |inputs, outputs| Linear::new(cx, inputs, outputs, true);
    let norm = || LayerNorm::new(cx, WIDTH, 1e-6);
    let block = |_| Block {
        norm: norm(),
        query: linear(WIDTH, WIDTH),
        key: linear(WIDTH, WIDTH),
        value: linear(WIDTH, WIDTH),
        output: linear(WIDTH, WIDTH),
    };
    let model = Vit {
        patches: linear(16 + 16, WIDTH),
        blocks: (0..2).map(block).collect(),
        norm: norm(),
        head: linear(WIDTH, 4),
    };
    let pixels = batch.column("pixels")?.reshape([rows, 4, 4, 4, 4]);
    let patches = pixels.permute([0, 1, 3, 2, 4]).reshape([rows, 16, 16]);
    let places = batch.column("places")?;
    let mask = batch.column("mask")?;
    let mut x = model.patches.forward(&patches.concat(&places, 2)).gelu();
    for block in &model.blocks {
        let y = block.norm.forward(&x);
        let [q, k, v] = [&block.query, &block.key, &block.value].map(|linear| linear.forward(&y));
        x = &x
            + &block
                .output
                .forward(&q.attention(&k, &v, &mask, 4, 0.0).gelu());
    }
    let pooled = model.norm.forward(&x).mean([1]).reshape([rows, WIDTH]);
    let logits = model.head.forward(&pooled);
    let loss = logits.cross_entropy(&batch.column("label")?);
    batch.built(&model, &[("loss", &loss), ("logits", &logits)])
}

/// That model with these weights, what it learns from and what it is measured by.
pub fn learner(weights: Params) -> Result<Own<'static>, Error> {
    let own = Own::new(&vit, weights, images(512, 1)?)?.held_out("test", images(256, 2)?);
    Ok(own.score(Headline::higher("accuracy"), |said| {
        [("accuracy".to_owned(), said.accuracy("logits", "label"))].into()
    }))
}

/// Trains, and stops after a step if one is given; where the folder has a run, resumes it.
pub fn train(device: Device, folder: &Path, stop: Option<u64>) -> Result<Report, Error> {
    let mut run = Run::new(learner(weights()?)?);
    (run.recipe.device, run.recipe.epochs, run.recipe.lr) = (device, 12, 2e-2);
    Ok(run.fit(folder, Existing::Resume, |stage| match stage {
        Stage::Training(Event::Step { report, .. }) if Some(report.step) == stop => Control::Stop,
        _ => Control::Continue,
    })?)
}

fn main() -> Result<(), Error> {
    let device: Device = std::env::args().nth(1).unwrap_or("cpu".into()).parse()?;
    let folder = tempfile::tempdir()?;
    for stop in [Some(40), None] {
        let report = train(device, folder.path(), stop)?;
        println!("{:?} after step {}", report.outcome, report.steps);
    }
    let backend = || backend(device, Precision::F32);
    let loaded = learner(weights()?)?.load(folder.path())?;
    println!("loaded: {:?}", loaded.evaluate(backend()?, 64)?);
    let merged = learner(loaded.merged()?)?;
    println!("merged: {:?}", merged.evaluate(backend()?, 64)?);
    Ok(())
}

/// What stands for a pretrained model: weights that are drawn.
pub fn weights() -> Result<Params, Error> {
    let parameters = Built::parameters_of(&vit, &images(1, 0)?)?;
    let weights = parameters.into_iter().map(|parameter| {
        let key = ailora::ir::Draw::default().key(&parameter.name);
        let is_norm = parameter.name.contains("norm.weight");
        let start = if is_norm { 1.0 } else { 0.0 };
        let spread = if parameter.shape.len() == 2 { 0.2 } else { 0.0 };
        let elements = 0..parameter.shape.iter().product::<usize>() as u64;
        let data = elements
            .map(|i| (start + spread * key.normal(i)) as f32)
            .collect();
        let shape = parameter.shape;
        (parameter.name, Array::new(shape, data))
    });
    Ok(weights.collect())
}

/// Noise in which one quarter is brighter, and which one that is.
pub fn images(rows: usize, seed: u64) -> Result<Columns, Error> {
    let key = ailora::ir::Draw { seed, step: 0 }.key("images");
    let label = |row: usize| (4.0 * key.uniform(row as u64)) as usize;
    let pixel = |i: usize| {
        let (row, y, x) = (i / 256, i / 16 % 16, i % 16);
        let bright = label(row) == y / 8 * 2 + x / 8;
        key.normal((1 << 20) + i as u64) as f32 + if bright { 1.0 } else { 0.0 }
    };
    let place = |i: usize| if i % 16 == i / 16 % 16 { 1.0 } else { 0.0 };
    let columns = Columns::new()
        .with_f32("pixels", [16, 16], (0..256 * rows).map(pixel).collect())?
        .with_f32("places", [16, 16], (0..256 * rows).map(place).collect())?
        .with_f32("mask", [16], vec![1.0; 16 * rows])?
        .with_i32(
            "label",
            [],
            (0..rows).map(|row| label(row) as i32).collect(),
        )?;
    Ok(columns)
}
