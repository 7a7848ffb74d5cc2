//! An objective and a format from outside the library: the example's, held to definitions.

#[path = "../examples/11_objective.rs"]
mod example;

use std::{collections::HashMap, fs};

use ailora::{
    ir::{Draw, Tensor as Value64, Type},
    models::{
        batch::Shape,
        objective::Objective,
        task::{Labels, Malformed},
    },
    nn::{Cx, Linear},
};
use example::{Tags, ask, fruits, train};

/// Seeded numbers, as far as 4 from 0.
fn numbers(name: &str, count: u64) -> Vec<f64> {
    let key = Draw::default().key(name);
    (0..count).map(|i| 8.0 * key.uniform(i) - 4.0).collect()
}

#[test]
fn the_loss_is_the_binary_cross_entropy() {
    let (rows, width) = (5, 3);
    let tags = Tags(["a", "b", "c"].map(str::to_owned).to_vec());
    let cx = Cx::new();
    // A module, as programs are of one.
    let linear = Linear::new(&cx, width, width, false);
    let logits = linear.forward(&cx.input("x", Type::f32([rows, width])));
    let loss = tags.loss(&logits, Shape::new(rows, 1));
    let program = cx
        .program(&linear, &[("loss", &loss), ("logits", &logits)])
        .unwrap();
    let x = numbers("x", 15);
    let weight = numbers("weight", 9);
    let flags: Vec<f64> = numbers("flags", 15)
        .iter()
        .map(|&x| f64::from(u8::from(x > 0.0)))
        .collect();
    let bindings: HashMap<_, _> = [
        ("x".to_owned(), Value64::new(&[rows, width][..], x)),
        (
            "weight".to_owned(),
            Value64::new(&[width, width][..], weight),
        ),
        (
            "tags".to_owned(),
            Value64::new(&[rows * width][..], flags.clone()),
        ),
    ]
    .into();
    let found = program.eval(&bindings, Draw::default()).unwrap();
    let logits = &found["logits"].data;
    assert!(logits.iter().any(|x| x.abs() > 3.0));
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let each = logits
        .iter()
        .zip(&flags)
        .map(|(&x, &flag)| -(flag * sigmoid(x).ln() + (1.0 - flag) * (1.0 - sigmoid(x)).ln()));
    let expected = each.sum::<f64>() / 15.0;
    assert!(
        (found["loss"].data[0] - expected).abs() <= 1e-10,
        "{expected}"
    );
}

#[test]
fn an_objective_and_a_format_of_ones_own_are_trained_and_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let report = train(folder.path(), 3).unwrap();
    let headline = report.headline.as_ref().unwrap();
    assert_eq!(headline.name, "micro_f1");
    let last = report.evaluations.last().unwrap();
    let first = &report.evaluations[0];
    assert!(
        last.train_loss < 0.6 * first.train_loss,
        "{first:?} {last:?}"
    );
    let best = report.best.as_ref().unwrap();
    assert!(best.metrics["micro_f1"] > 0.85, "{best:?}");
    let found = ask(folder.path(), "Tom has 3 plums and buys 4 apples.").unwrap();
    assert_eq!(found, serde_json::json!(["apples", "plums"]));
}

#[test]
fn what_is_malformed_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fruits.txt");
    let load = |text: &str| {
        fs::write(&path, text).unwrap();
        let file = fruits()
            .unwrap()
            .load(&[&path], Labels::Required, Malformed::Refused);
        file.map_err(|error| {
            error
                .to_string()
                .replace(&path.display().to_string(), "FILE")
        })
    };
    let file = load("text: a\ntags: pears, apples\n\n\ntext: b\ntags:\nid: 7\n").unwrap();
    let targets: Vec<_> = file
        .examples
        .iter()
        .map(|row| row.target.clone().unwrap())
        .collect();
    assert_eq!(
        serde_json::json!(targets),
        serde_json::json!([[1, 1, 0], [0, 0, 0]])
    );
    assert!(
        file.notes[0].text.ends_with("are not used: `id`"),
        "{:?}",
        file.notes
    );
    for (text, expected) in [
        (
            "text: a\ntags: pears\n\ntext: b\ntags: nuts\n",
            "FILE, line 4, column `tags`: expected some of apples, pears, plums, found \"nuts\"",
        ),
        (
            "text: a\ntags\n",
            "FILE: expected `name: value` on line 2: found \"tags\"",
        ),
        (
            "tags: pears\n",
            "FILE, line 1, column `text`: expected a sentence, found no such field",
        ),
        ("\n\n", "FILE holds no examples"),
    ] {
        assert_eq!(load(text).unwrap_err(), expected);
    }
}
