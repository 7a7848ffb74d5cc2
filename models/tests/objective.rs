//! Held-out losses and classes of objectives, against the float64 interpreter and their definitions.

mod support;

use std::{sync::Arc, thread};

use ailora_graph::{
    Trainable,
    ir::{Draw, Tensor, Type},
    nn::{Cx, Linear},
};
use ailora_models::{
    batch::{Batch, Buckets, Encoded, Part, Plan, Shape},
    data::Example,
    objective::{Causal, Classification, Extractive, HeldOut, Objective, Predictor, RawText},
    pretrained::Pretrained,
    tokenizer::Encoding,
};
use ailora_runtime::{
    collective::{Collective, Single, threads},
    engine::Engine,
};
use serde_json::{Value, json};
use support::{eval, fixtures};

/// A row of seeded tokens, the last of them in segment 1.
fn row(number: usize, prompt: usize, answer: usize, target: Option<Value>) -> Encoded {
    let token = |i: usize| ((number * 31 + i * 17 + 7) % 90 + 3) as u32;
    Encoded {
        encoding: Encoding {
            ids: (0..prompt + answer).map(token).collect(),
            type_ids: [vec![0; prompt], vec![1; answer]].concat(),
            ..Encoding::default()
        },
        target,
        part: None,
    }
}

/// The scores of rows in batches of two, of a base without adapters.
fn scores(
    base: &Pretrained,
    objective: &Arc<dyn Objective>,
    rows: &[Encoded],
) -> Vec<(String, f64)> {
    let (scores, _) = evaluate(base, objective, rows, 2, Arc::new(Single));
    scores
}

/// The scores and the logits of rows in batches, on one of several ranks; the same scores each time.
fn evaluate(
    base: &Pretrained,
    objective: &Arc<dyn Objective>,
    rows: &[Encoded],
    batch_size: usize,
    ranks: Arc<dyn Collective>,
) -> (Vec<(String, f64)>, Vec<Vec<f32>>) {
    let (model, sites) = (base.model.clone(), Vec::new());
    let mut predictor = Predictor::new(model, objective.clone(), sites, Trainable::Adapters, 0);
    let mut engine = Engine::new(base.weights.clone()).among(ranks);
    let lengths: Vec<usize> = rows.iter().map(Encoded::tokens).collect();
    let buckets = Buckets::choose(&lengths, 32, 2).unwrap();
    let split = HeldOut::new("dev", rows.to_vec(), &**objective, &buckets, batch_size, 0).unwrap();
    let [scores, again] = [(); 2].map(|()| {
        let scores = objective.evaluate(&mut predictor, &mut engine, &split);
        scores.unwrap().into_iter().collect::<Vec<_>>()
    });
    assert_eq!(scores, again);
    let logits = predictor.logits(&mut engine, &split.rows, &split.batches);
    (scores, logits.unwrap())
}

/// The logits of one row alone, in float64.
fn logits(base: &Pretrained, row: &Encoded) -> Vec<(String, Vec<f64>)> {
    let plan = Plan {
        len: row.tokens(),
        indices: vec![0],
    };
    let batch = Batch::new(&plan, std::slice::from_ref(row), 0).unwrap();
    let program = base
        .model
        .program(Shape::new(1, row.tokens()), false, false);
    eval(&program.unwrap(), &base.weights, &base.model.inputs(&batch))
}

/// `-log softmax(logits)[label]`
fn cross_entropy(logits: &[f64], label: usize) -> f64 {
    let total: f64 = logits.iter().map(|x| x.exp()).sum();
    total.ln() - logits[label]
}

fn open(fixture: &str, objective: &Arc<dyn Objective>) -> Pretrained {
    Pretrained::open(&fixtures().join("parity").join(fixture), objective.head()).unwrap()
}

/// The mean is over the tokens of all answers, however they are batched; the first token of a row is
/// predicted from nothing, and a row without an answer changes nothing.
#[test]
fn the_loss_of_answers_is_the_mean_over_their_tokens() {
    let objective: Arc<dyn Objective> = Arc::new(Causal::new("answer"));
    let base = open("llama_mha-0", &objective);
    let mut rows: Vec<Encoded> = [(3, 1), (2, 6), (9, 3), (0, 5)]
        .iter()
        .enumerate()
        .map(|(i, &(prompt, answer))| row(i, prompt, answer, None))
        .collect();
    let (mut sum, mut matches, mut count) = (0.0, 0, 0);
    for row in &rows {
        let Encoding { ids, type_ids, .. } = &row.encoding;
        let (_, logits) = &logits(&base, row)[0];
        let vocabulary = logits.len() / ids.len();
        for at in (1..ids.len()).filter(|&at| type_ids[at] == 1) {
            let before = &logits[(at - 1) * vocabulary..][..vocabulary];
            sum += cross_entropy(before, ids[at] as usize);
            matches += u32::from((0..vocabulary).all(|i| before[i] <= before[ids[at] as usize]));
            count += 1;
        }
    }
    assert_eq!(count, 14);
    let expected = sum / f64::from(count);
    let found = scores(&base, &objective, &rows);
    let names: Vec<&str> = found.iter().map(|(name, _)| &**name).collect();
    assert_eq!(names, ["loss", "perplexity", "token_accuracy"]);
    let headlines = objective.headlines().into_iter();
    assert_eq!(names, headlines.map(|score| score.name).collect::<Vec<_>>());
    assert!(
        (found[0].1 - expected).abs() <= 1e-5,
        "{found:?} {expected}"
    );
    assert!((found[1].1 - expected.exp()).abs() <= 1e-4 * expected.exp());
    assert_eq!(found[2].1, f64::from(matches) / f64::from(count));

    // In a batch of its own, which has no target at all, and beside another.
    let prompt = row(7, 20, 0, None);
    assert!(!objective.has_targets(&prompt));
    for more in 1..4 {
        rows.push(prompt.clone());
        let again = scores(&base, &objective, &rows);
        assert!(
            (again[0].1 - expected).abs() <= 1e-5,
            "{more}: {again:?} {expected}"
        );
    }
}

/// Rows without padding, whose places would be among those that may be chosen, as in transformers.
#[test]
fn the_loss_of_spans_is_the_mean_of_their_ends() {
    let objective: Arc<dyn Objective> = Arc::new(Extractive::new("answers", "starts"));
    let base = open("bert_qa-0", &objective);
    let spans = [(4, 6), (0, 0), (9, 9)];
    let rows: Vec<Encoded> = spans
        .iter()
        .enumerate()
        .map(|(i, &(start, end))| Encoded {
            part: Some(Part {
                number: i,
                example: Arc::new(Example {
                    target: Some(json!({"answers": ["a"], "start": 0})),
                    ..Example::of("a?")
                }),
                first: 4,
                places: Vec::new(),
            }),
            ..row(i, 4, 12, Some(json!([start, end])))
        })
        .collect();
    let mut expected = 0.0;
    for (row, &(start, end)) in rows.iter().zip(&spans) {
        let found = logits(&base, row);
        let named = |name: &str| &found.iter().find(|(found, _)| found == name).unwrap().1;
        expected += cross_entropy(named("start_logits"), start) / 6.0;
        expected += cross_entropy(named("end_logits"), end) / 6.0;
    }
    let found = scores(&base, &objective, &rows);
    let (name, loss) = found.last().unwrap();
    assert_eq!(name, "loss");
    assert!((loss - expected).abs() <= 1e-5, "{found:?} {expected}");
}

#[test]
fn classes_are_the_largest_logits_and_rows_without_one_are_named() {
    let metrics =
        ["accuracy", "f1"].map(|name| ailora_models::metrics::Metric::named(name).unwrap());
    let classes = Classification::new("label", ["no", "yes"], &metrics);
    let objective: Arc<dyn Objective> = Arc::new(classes);
    let base = open("bert_cls-0", &objective);
    let bare: Vec<Encoded> = (0..7).map(|i| row(i, 3 + i, i % 3, None)).collect();
    let class = |row: &Encoded| {
        let (_, logits) = &logits(&base, row)[0];
        usize::from(logits[1] > logits[0])
    };
    let found: Vec<usize> = bare.iter().map(class).collect();
    // Wrong for every third.
    let label = |i: usize| {
        if i.is_multiple_of(3) {
            1 - found[i]
        } else {
            found[i]
        }
    };
    let labelled = |(i, row): (usize, &Encoded)| Encoded {
        target: Some(label(i).into()),
        ..row.clone()
    };
    let rows: Vec<Encoded> = bare.iter().enumerate().map(labelled).collect();
    let scores = scores(&base, &objective, &rows);
    assert_eq!(scores[0].0, "accuracy");
    assert!((scores[0].1 - 4.0 / 7.0).abs() <= 1e-12, "{scores:?}");
    assert_eq!(scores[1].0, "f1");

    let plan = Plan {
        len: 16,
        indices: vec![2, 4],
    };
    let mut batch = Batch::new(&plan, &rows, 0).unwrap();
    let mut refs = vec![&rows[2], &bare[4]];
    let error = objective
        .prepare(&mut batch, &refs, Draw::default())
        .unwrap_err();
    let expected = "example 4: expected a class below 2, found no label";
    assert_eq!(error.to_string(), expected);
    let odd = Encoded {
        target: Some(2.into()),
        ..rows[2].clone()
    };
    refs = vec![&odd, &rows[4]];
    let error = objective
        .prepare(&mut batch, &refs, Draw::default())
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "example 2: expected a class below 2, found 2"
    );
}

/// Five rows in batches of four on two ranks: five predictions in the rows' order, and scores over five.
#[test]
fn ranks_share_held_out_rows_out_and_none_counts_twice() {
    let metrics = [ailora_models::metrics::ACCURACY];
    let classes = Classification::new("label", ["no", "yes"], &metrics);
    let causal = (
        "llama_mha-0",
        Arc::new(Causal::new("answer")) as Arc<dyn Objective>,
    );
    let classes = ("bert_cls-0", Arc::new(classes) as Arc<dyn Objective>);
    for (fixture, objective) in [causal, classes] {
        let base = open(fixture, &objective);
        let rows: Vec<Encoded> = (0..5)
            .map(|i| row(i, 3 + 2 * (i * 3 % 5), 1 + i % 2, Some((i % 2).into())))
            .collect();
        let (expected, logits) = evaluate(&base, &objective, &rows, 4, Arc::new(Single));
        assert_eq!(logits.len(), 5);
        let found = thread::scope(|scope| {
            let (base, objective, rows) = (&base, &objective, &rows);
            let ranks = threads(2).into_iter();
            let running: Vec<_> = ranks
                .map(|rank| scope.spawn(move || evaluate(base, objective, rows, 4, Arc::new(rank))))
                .collect();
            let running = running.into_iter().map(|rank| rank.join().unwrap());
            running.collect::<Vec<_>>()
        });
        for (scores, found) in found {
            assert_eq!(found, logits);
            for ((name, found), (_, expected)) in scores.iter().zip(&expected) {
                assert!(
                    (found - expected).abs() <= 1e-12 * expected.abs(),
                    "{name}: {found}"
                );
            }
        }
    }
}

/// The end of an answer is learned though it is the padding token, too, as in running text.
#[test]
fn answers_end_in_a_target_though_it_is_the_padding_too() {
    let row = |ids: &[u32]| Encoded {
        encoding: Encoding {
            ids: ids.to_vec(),
            type_ids: (0..ids.len()).map(|i| u32::from(i > 0)).collect(),
            ..Encoding::default()
        },
        target: None,
        part: None,
    };
    let rows = [row(&[0, 3, 1]), row(&[0, 3, 4, 1])];
    let plan = Plan {
        len: 4,
        indices: vec![0, 1],
    };
    for objective in [
        &Causal::new("answer") as &dyn Objective,
        &RawText::default(),
    ] {
        let mut batch = Batch::new(&plan, &rows, 1).unwrap();
        let refs: Vec<&Encoded> = rows.iter().collect();
        objective
            .prepare(&mut batch, &refs, Draw::default())
            .unwrap();
        let labels = batch.targets.inputs.ids("labels").unwrap();
        assert_eq!(labels, [3, 1, -100, -100, 3, 4, 1, -100], "{objective:?}");
    }
}

/// Logits that are sure of each next token have no loss: labels are not shifted once more by the loss.
#[test]
fn labels_are_shifted_once() {
    let ids = [0, 3, 4, 1];
    let objective = RawText::default();
    let row = Encoded {
        encoding: Encoding {
            ids: ids.map(|id| id as u32).to_vec(),
            type_ids: vec![1; 4],
            ..Encoding::default()
        },
        target: None,
        part: None,
    };
    let rows = [row];
    let plan = Plan {
        len: 4,
        indices: vec![0],
    };
    let mut batch = Batch::new(&plan, &rows, 0).unwrap();
    objective
        .prepare(&mut batch, &[&rows[0]], Draw::default())
        .unwrap();
    let cx = Cx::new();
    let linear = Linear::new(&cx, 5, 5, false);
    let logits = linear.forward(&cx.input("x", Type::f32([1, 4, 5])));
    let loss = objective.loss(&logits, batch.shape());
    let program = cx.program(&linear, &[("loss", &loss)]).unwrap();
    let labels = batch.targets.inputs.ids("labels").unwrap();
    let labels: Vec<f64> = labels.iter().map(|&label| f64::from(label)).collect();
    let sure = |next: fn(usize) -> usize| {
        Tensor::from_fn(&[1, 4, 5], |i| match ids.get(next(i[1])) {
            Some(&id) if id == i[2] => 9.0,
            _ => -9.0,
        })
    };
    let value = |x: Tensor, labels: Vec<f64>| {
        let identity = Tensor::from_fn(&[5, 5], |i| f64::from(u8::from(i[0] == i[1])));
        let bindings = [
            ("x".to_owned(), x),
            ("weight".to_owned(), identity),
            ("labels".to_owned(), Tensor::new([4], labels)),
        ];
        program.eval(&bindings.into(), Draw::default()).unwrap()["loss"].data[0]
    };
    let right = value(sure(|i| i + 1), labels.clone());
    assert!(right < 1e-6, "{right}");
    // Two of the three are as wrong as can be.
    assert!(value(sure(|i| i + 2), labels) > 12.0);
}
