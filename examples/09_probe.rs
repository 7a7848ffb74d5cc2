//! What a pretrained encoder knows before any fine-tuning: a linear probe. Its frozen hidden states,
//! averaged over a problem's tokens, are classified by softmax regression; beside it the same encoder
//! with random weights. `cargo run --release --example 09_probe -- FOLDER_OR_ID`

use std::collections::HashMap;

use ailora::{
    finetune::data,
    ir::Draw,
    models::{
        batch::{Batch, Buckets, Encoded, Order, Shape, evaluation},
        data::Example,
        hub,
        pretrained::Pretrained,
        task::{Malformed, Splits, Task},
    },
    runtime::engine::Engine,
};

type Error = Box<dyn std::error::Error>;

/// A row's features, and its class.
type Row = (Vec<f64>, usize);

fn main() -> Result<(), Error> {
    let name = std::env::args().nth(1).unwrap_or("embedded".into());
    let folder = hub::resolve(&name)?;
    let task = Task::parse("svamp")?;
    let Splits { train, dev, .. } = task.load_dir(&data(&task, None)?, Malformed::Refused)?;
    let held_out = dev.values().next().ok_or("no held-out rows")?;
    let classes = task.label_names().len();
    for (what, base) in [
        ("pretrained", Pretrained::open(&folder, task.head())?),
        ("random", Pretrained::random(&folder, task.head(), 0)?),
    ] {
        let [train, held_out] = [&train, held_out].map(|rows| features(&base, &task, rows));
        let accuracy = probe(&train?, &held_out?, classes);
        println!(
            "{what:10} encoder: {:.1}% of the held-out problems",
            100.0 * accuracy
        );
    }
    Ok(())
}

/// The mean of each row's hidden states over its tokens.
fn features(base: &Pretrained, task: &Task, examples: &[Example]) -> Result<Vec<Row>, Error> {
    let tokenizer = base.tokenizer()?;
    let max_len = base.model.config().architecture.max_len();
    let rows = task.objective.encode(examples, &tokenizer, max_len)?;
    let lengths: Vec<usize> = rows.iter().map(Encoded::tokens).collect();
    let buckets = Buckets::choose(&lengths, max_len, 8)?;
    let mut engine = Engine::new(base.weights.clone());
    let mut plans = HashMap::new();
    let mut features = vec![(Vec::new(), 0); rows.len()];
    for plan in evaluation(Order::ByLength, &lengths, &buckets, 1)? {
        let batch = Batch::new(&plan, &rows, tokenizer.pad_id())?;
        let id = match plans.get(&batch.len) {
            Some(&id) => id,
            None => engine.compile(&base.model.encoder(Shape::new(1, batch.len))?)?,
        };
        plans.insert(batch.len, id);
        let inputs = base.model.inputs(&batch);
        let outputs = engine.run(id, &inputs.values(), Draw::default())?;
        let hidden = outputs.get("last_hidden_state").unwrap_or_default();
        let width = hidden.len() / batch.len;
        let tokens = lengths[batch.indices[0]];
        let mean = |c: usize| {
            let column = hidden.iter().skip(c).step_by(width).take(tokens);
            column.map(|&x| f64::from(x)).sum::<f64>() / tokens as f64
        };
        let row = batch.indices[0];
        let class = rows[row].target.as_ref().and_then(|class| class.as_u64());
        let class = class.ok_or("a row without a class")?;
        features[row] = ((0..width).map(mean).collect(), class as usize);
    }
    Ok(features)
}

/// The accuracy on held-out rows of softmax regression, by gradient descent with a little weight
/// decay, on features of zero mean and unit variance.
fn probe(train: &[Row], held_out: &[Row], classes: usize) -> f64 {
    let (n, width) = (train.len() as f64, train[0].0.len());
    let mean: Vec<f64> = (0..width)
        .map(|c| train.iter().map(|(x, _)| x[c]).sum::<f64>() / n)
        .collect();
    let deviation: Vec<f64> = (0..width)
        .map(|c| {
            let squares = train.iter().map(|(x, _)| (x[c] - mean[c]).powi(2));
            (squares.sum::<f64>() / n).sqrt().max(1e-9)
        })
        .collect();
    let normal = |rows: &[Row]| -> Vec<Row> {
        let one = |(x, class): &Row| {
            let x = x
                .iter()
                .enumerate()
                .map(|(c, x)| (x - mean[c]) / deviation[c]);
            // A constant, whose weight is the bias.
            (x.chain([1.0]).collect(), *class)
        };
        rows.iter().map(one).collect()
    };
    let (train, held_out) = (normal(train), normal(held_out));
    let mut weights = vec![vec![0.0; width + 1]; classes];
    let scores = |weights: &[Vec<f64>], x: &[f64]| -> Vec<f64> {
        let dot = |w: &Vec<f64>| w.iter().zip(x).map(|(w, x)| w * x).sum();
        weights.iter().map(dot).collect()
    };
    for _ in 0..300 {
        let mut gradient = vec![vec![0.0; width + 1]; classes];
        for (x, class) in &train {
            let scores: Vec<f64> = scores(&weights, x).iter().map(|s| s.exp()).collect();
            let total: f64 = scores.iter().sum();
            for (k, gradient) in gradient.iter_mut().enumerate() {
                let error = scores[k] / total - f64::from(u8::from(k == *class));
                gradient
                    .iter_mut()
                    .zip(x)
                    .for_each(|(g, x)| *g += error * x / n);
            }
        }
        for (weights, gradient) in weights.iter_mut().zip(&gradient) {
            for (w, g) in weights.iter_mut().zip(gradient) {
                *w -= 0.1 * (g + 1e-3 * *w);
            }
        }
    }
    let right = held_out.iter().filter(|(x, class)| {
        let scores = scores(&weights, x);
        (0..classes).all(|k| scores[k] <= scores[*class])
    });
    right.count() as f64 / held_out.len() as f64
}
