//! Targets of several classes and several numbers: how rows say them, what is learned of them and what is
//! predicted.

use std::{path::Path, sync::Arc};

use ailora_graph::{
    ir::{Bindings, Draw, Tensor, Type},
    nn::{Cx, Linear},
};
use ailora_models::{
    batch::{Batch, Encoded, Inputs, Plan, Shape},
    choice::Choice,
    data::{Place, Record},
    objective::{OBJECTIVES, Objective},
    tokenizer::Encoding,
};
use ailora_runtime::run::Value as Input;
use serde_json::{Value, json};

/// The objective that a description says.
fn objective(description: Value) -> Result<Arc<dyn Objective>, String> {
    let choice: Choice = serde_json::from_value(description).unwrap();
    choice.make("objective", OBJECTIVES)
}

/// What an objective reads of a record with these fields.
fn target(objective: &dyn Objective, fields: Value) -> Result<Value, String> {
    let Value::Object(fields) = fields else {
        panic!("{fields} is no record")
    };
    let fields = fields.into_iter().map(|(name, value)| (name.into(), value));
    let record = Record::new(Path::new("rows"), Place::Record(1), fields.collect());
    objective.target(&record).map_err(|error| error.to_string())
}

/// A batch of rows with these targets.
fn batch(objective: &dyn Objective, targets: &[Value]) -> Result<Batch, String> {
    let row = |target: &Value| Encoded {
        encoding: Encoding {
            ids: vec![5],
            type_ids: vec![0],
            cut: false,
            ..Encoding::default()
        },
        target: Some(target.clone()),
        part: None,
    };
    let rows: Vec<Encoded> = targets.iter().map(row).collect();
    let plan = Plan {
        len: 1,
        indices: (0..rows.len()).collect(),
    };
    let mut batch = Batch::new(&plan, &rows, 0).unwrap();
    let rows: Vec<&Encoded> = rows.iter().collect();
    let prepared = objective.prepare(&mut batch, &rows, Draw::default());
    prepared.map(|()| batch).map_err(|error| error.to_string())
}

/// The loss of rows of logits, in float64.
fn loss(objective: &dyn Objective, logits: &[&[f64]], targets: &[Value]) -> f64 {
    let (rows, outputs) = (logits.len(), logits[0].len());
    let cx = Cx::new();
    // A module, as programs are of one.
    let module = Linear::new(&cx, outputs, outputs, false);
    let input = cx.input("logits", Type::f32([rows, outputs]));
    let loss = objective.loss(&input, Shape::new(rows, 1));
    let program = cx.program(&module, &[("loss", &loss)]).unwrap();
    let mut bindings: Bindings = [
        (
            "logits".to_owned(),
            Tensor::new([rows, outputs], logits.concat()),
        ),
        (
            "weight".to_owned(),
            Tensor::new([outputs, outputs], vec![0.0; outputs * outputs]),
        ),
    ]
    .into();
    let batch = batch(objective, targets).unwrap();
    for (name, value) in batch.targets.inputs.values() {
        let Input::F32(data) = value else {
            panic!("{name} are ids")
        };
        let data: Vec<f64> = data.iter().map(|&x| f64::from(x)).collect();
        bindings.insert(name.to_owned(), Tensor::new([data.len()], data));
    }
    program.eval(&bindings, Draw::default()).unwrap()["loss"].data[0]
}

fn close(found: f64, expected: f64) {
    assert!(
        (found - expected).abs() <= 1e-6 * expected.abs(),
        "{found} is not {expected}"
    );
}

fn tags() -> Arc<dyn Objective> {
    let classes = json!(["apples", "pears", "plums"]);
    objective(json!({"multilabel": {"label": "tags", "classes": classes, "separator": ";"}}))
        .unwrap()
}

/// Against torch 2.15's `binary_cross_entropy_with_logits`, with logits whose exponentials overflow.
#[test]
fn the_loss_of_any_classes_is_the_binary_cross_entropy() {
    let logits: [&[f64]; 2] = [&[0.3, -0.2, 4.0], &[-120.0, 95.0, 0.0]];
    let found = loss(&*tags(), &logits, &[json!([1, 0, 1]), json!([1, 0, 1])]);
    close(found, 36.14396286010742);
}

/// Where 0.5 is held against probabilities, and not against logits.
#[test]
fn a_class_is_predicted_from_a_probability_of_one_half_on() {
    let tags = tags();
    let prediction = tags.predict(&[0.3, -0.2, 0.0]);
    assert_eq!(prediction, json!([1, 0, 0]));
    assert_eq!(tags.describe(&prediction), json!(["apples"]));
    assert_eq!(tags.describe(&json!([0, 0, 0])), json!([]));
}

#[test]
fn classes_are_read_from_lists_texts_and_columns() {
    let tags = tags();
    for (written, expected) in [
        (json!(["plums", "apples"]), [1, 0, 1]),
        (json!([]), [0, 0, 0]),
        (json!([1, "plums", 1]), [0, 1, 1]),
        (json!("pears; apples"), [1, 1, 0]),
        (json!(""), [0, 0, 0]),
        (json!("2"), [0, 0, 1]),
        (json!("[\"pears\"]"), [0, 1, 0]),
    ] {
        assert_eq!(
            target(&*tags, json!({"tags": written})),
            Ok(json!(expected)),
            "{written}"
        );
    }
    for odd in [
        json!({"tags": null}),
        json!({}),
        json!({"tags": ["nuts"]}),
        json!({"tags": [3]}),
        json!({"tags": true}),
    ] {
        let error = target(&*tags, odd.clone()).unwrap_err();
        assert!(
            error.contains("column `tags`: expected a list of some of apples, pears, plums"),
            "{odd}: {error}"
        );
    }
    // A class that is called as another's index.
    let years =
        objective(json!({"multilabel": {"label": "years", "classes": ["1", "0"]}})).unwrap();
    assert_eq!(target(&*years, json!({"years": [1]})), Ok(json!([1, 0])));

    let columns = objective(json!({"multilabel": {"label": ["sweet", "sour"]}})).unwrap();
    assert_eq!(columns.classes(), ["sweet", "sour"]);
    for (sweet, sour, expected) in [
        (json!("0"), json!(1), [0, 1]),
        (json!(true), json!("1.0"), [1, 1]),
    ] {
        assert_eq!(
            target(&*columns, json!({"sweet": sweet, "sour": sour})),
            Ok(json!(expected))
        );
    }
    for odd in [json!({"sweet": 1}), json!({"sweet": 1, "sour": "2"})] {
        let error = target(&*columns, odd).unwrap_err();
        assert!(error.contains("column `sour`: expected 0 or 1"), "{error}");
    }
}

/// The mean squared error is over all numbers, which stay floats.
#[test]
fn several_numbers_are_learned_as_they_are_written() {
    let lists = objective(json!({"regression": {"label": "scores", "outputs": 2}})).unwrap();
    let columns = objective(json!({"regression": {"label": ["a", "b"], "range": [0, 1]}})).unwrap();
    for (objective, fields) in [
        (&lists, json!({"scores": [0.3, 0.24]})),
        (&lists, json!({"scores": "[0.3, 0.24]"})),
        (&columns, json!({"a": "0.3", "b": 0.24})),
    ] {
        let target = target(&**objective, fields).unwrap();
        assert_eq!(target, json!([0.3_f32, 0.24_f32]));
        let batch = batch(&**objective, std::slice::from_ref(&target)).unwrap();
        let expected = Inputs::default().with_floats("scores", vec![0.3, 0.24]);
        assert_eq!(batch.targets.inputs, expected);
        close(loss(&**objective, &[&[0.0, 0.0]], &[target]), 0.0738);
        assert_eq!(objective.predict(&[0.5, -0.25]), json!([0.5, -0.25]));
    }
    assert_eq!(columns.output_names(), ["a", "b"]);
    for (objective, fields, expected) in [
        (
            &lists,
            json!({"scores": [0.3]}),
            "column `scores`: expected a list of 2 numbers",
        ),
        (&lists, json!({"scores": [0.3, null]}), "column `scores`"),
        (
            &columns,
            json!({"a": 0.5, "b": 1.5}),
            "column `b`: expected a number from 0 to 1",
        ),
        (&columns, json!({"a": 0.5}), "column `b`"),
    ] {
        let error = target(&**objective, fields).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
    let single = objective(json!({"regression": {"label": "score"}})).unwrap();
    assert_eq!(
        target(&*single, json!({"score": "0.3"})),
        Ok(json!(0.3_f32))
    );
    close(
        loss(&*single, &[&[0.0], &[1.0]], &[json!(0.5), json!(0.5)]),
        0.25,
    );
    let error = batch(&*single, &[json!([0.5, 0.5])]).unwrap_err();
    assert!(error.contains("expected a number"), "{error}");
}

#[test]
fn options_that_mean_nothing_are_named() {
    for (description, expected) in [
        (
            json!({"classification": {"label": "a", "classes": ["pos"]}}),
            "`classes` has `pos` alone; expected at least 2",
        ),
        (
            json!({"classification": {"label": "a", "classes": []}}),
            "has 0 names",
        ),
        (
            json!({"classification": {"label": "a", "classes": ["b", "b"]}}),
            "`b` twice",
        ),
        (
            json!({"classification": {"label": "a", "classes": ["b", "c"], "metrics": ["f2"]}}),
            "no metric is called `f2`",
        ),
        (
            json!({"multilabel": {"label": "a"}}),
            "`classes` has 0 names; expected at least 1",
        ),
        (
            json!({"multilabel": {"label": []}}),
            "`label` has no columns",
        ),
        (
            json!({"multilabel": {"label": ["a", "a"]}}),
            "the column `a` twice",
        ),
        (
            json!({"multilabel": {"label": 3, "classes": ["b"]}}),
            "`label`: expected the name of a column, or a list",
        ),
        (
            json!({"multilabel": {"label": ["a"], "classes": ["b"]}}),
            "not the columns of `label`",
        ),
        (
            json!({"multilabel": {"label": ["a"], "separator": ";"}}),
            "`separator` is for classes in one column",
        ),
        (
            json!({"multilabel": {"label": "a", "classes": ["b;c"], "separator": ";"}}),
            "`b;c` has the `separator`",
        ),
        (
            json!({"multilabel": {"label": "a", "classes": ["b"], "metrics": ["accuracy"]}}),
            "`accuracy` is of rows that have",
        ),
        (
            json!({"regression": {"label": "a", "metrics": ["micro_f1"]}}),
            "`micro_f1` is of rows that have",
        ),
        (
            json!({"regression": {"label": ["a", "b"], "outputs": 3}}),
            "`label` has 2 columns",
        ),
        (
            json!({"regression": {"label": "a", "outputs": 0}}),
            "`outputs` is 0",
        ),
    ] {
        let error = objective(description).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn an_objective_that_names_no_metrics_has_its_kind_s() {
    for (description, expected) in [
        (
            json!({"classification": {"label": "a", "classes": ["b", "c"]}}),
            &["accuracy", "macro_f1", "loss"][..],
        ),
        (
            json!({"multilabel": {"label": ["a", "b"]}}),
            &["micro_f1", "macro_f1", "exact_match", "loss"],
        ),
        (
            json!({"regression": {"label": "a"}}),
            &["pearson", "spearman", "rmse", "loss"],
        ),
        (
            json!({"regression": {"label": "a", "metrics": []}}),
            &["loss"],
        ),
        (
            json!({"causal": {"answer": "a"}}),
            &["loss", "perplexity", "token_accuracy"],
        ),
        (
            json!({"masked": {"rate": 0.2}}),
            &["loss", "perplexity", "token_accuracy"],
        ),
        (
            json!({"extractive": {"answers": "a", "starts": "b"}}),
            &["f1", "exact_match", "loss"],
        ),
    ] {
        let headlines = objective(description).unwrap().headlines();
        let names: Vec<&str> = headlines.iter().map(|score| &*score.name).collect();
        assert_eq!(names, expected);
    }
}
