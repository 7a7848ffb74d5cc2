use serde_json::json;

use super::*;

fn values(values: Value) -> Vec<Value> {
    values.as_array().unwrap().clone()
}

#[test]
fn score_names_metrics_in_their_order() {
    let metrics = ["f1", "accuracy"].map(|name| Metric::named(name).unwrap());
    let scores = score(
        &metrics,
        &values(json!([0, 1, 0])),
        &values(json!([0, 1, 1])),
    );
    let scores = scores.unwrap();
    assert_eq!(scores.keys().collect::<Vec<_>>(), ["f1", "accuracy"]);
    assert!((scores["f1"] - 2.0 / 3.0).abs() < 1e-12);
    assert!((scores["accuracy"] - 2.0 / 3.0).abs() < 1e-12);

    let metrics = [Metric::named("spearman").unwrap()];
    let scores = score(
        &metrics,
        &values(json!([3.0, 1.0, 2])),
        &values(json!([1, 2, 4.0])),
    );
    assert!((scores.unwrap()["spearman"] + 0.5).abs() < 1e-12);
    let error = Metric::named("accurracy").unwrap_err();
    assert!(error.ends_with("did you mean `accuracy`?"), "{error}");
}

#[test]
fn bad_input_is_no_score() {
    let accuracy = [Metric::named("accuracy").unwrap()];
    let pearson = [Metric::named("pearson").unwrap()];
    let classes = values(json!([0, 1]));
    let message = |metrics, found: Value, expected: &[Value]| {
        let error = score(metrics, &values(found), expected).unwrap_err();
        error.to_string()
    };
    assert_eq!(message(&accuracy, json!([]), &[]), "no examples to score");
    assert_eq!(
        message(&accuracy, json!([1]), &classes),
        "expected a prediction for each of 2 references, found 1"
    );
    assert_eq!(
        message(&accuracy, json!([1, 0.5]), &classes),
        "label of example 1: expected the index of a class, found 0.5"
    );
    // What is not a number is null in JSON.
    assert_eq!(
        message(&pearson, json!([f64::NAN, 0.5]), &classes),
        "label of example 0: expected a finite number, found null"
    );
}

/// Expected values: scikit-learn 1.9.1, its default for several outputs.
#[test]
fn several_numbers_are_scored_by_the_mean_over_their_places() {
    let predicted = values(json!([
        [1.5, -5.7],
        [-0.3, 8.9],
        [0.0, -10.8],
        [1.0, 0.9],
        [-0.6, -3.4],
        [-0.2, -6.4]
    ]));
    let gold = values(json!([
        [0.6, 0.0],
        [-0.0, 15.0],
        [0.5, -13.0],
        [0.8, 8.0],
        [-1.8, -17.0],
        [-1.1, -14.0]
    ]));
    let scores = score(&[MSE, RMSE, MAE, R2], &predicted, &gold).unwrap();
    let expected = [
        30.92583333333333,
        4.2926178208340495,
        3.858333333333334,
        0.4777305195480023,
    ];
    for ((name, found), expected) in scores.into_iter().zip(expected) {
        assert!(
            (found - expected).abs() < 1e-12,
            "{name}: {found} != {expected}"
        );
    }
    let error = score(&[MSE], &values(json!([[1.0]])), &gold[..1]).unwrap_err();
    assert!(error.to_string().contains("found [1.0]"), "{error}");
}

#[test]
fn every_metric_has_its_direction() {
    for metric in METRICS {
        let is_error = ["mse", "rmse", "mae"].contains(&metric.name);
        let expected = if is_error {
            Better::Lower
        } else {
            Better::Higher
        };
        assert_eq!(metric.better, expected, "{}", metric.name);
        assert_eq!(metric.headline().better, expected);
    }
}

#[test]
fn texts_are_scored_against_texts_and_answers() {
    let metrics = [ROUGE_1, ROUGE_2, ROUGE_L, ROUGE_LSUM];
    let found = values(json!(["a b c d", "d e f.<n>a b c."]));
    let gold = values(json!([["d c b a", "a b x y z"], "a b c.\nd e f."]));
    let scores = score(&metrics, &found, &gold).unwrap();
    for (name, first, second) in [
        ("rouge1", 1.0, 1.0),
        ("rouge2", 2.0 / 7.0, 0.8),
        ("rougeL", 4.0 / 9.0, 0.5),
        ("rougeLsum", 4.0 / 9.0, 1.0),
    ] {
        let expected = (first + second) / 2.0;
        let found = scores[name];
        assert!((found - expected).abs() < 1e-12, "{name}: {found}");
    }
    let found = values(json!(["The answer is $1,000.", "is 10-7"]));
    let gold = values(json!(["12 + 988 #### 1,000", 7]));
    let numbers = [NUMBER_ACCURACY, STRICT_NUMBER_ACCURACY];
    let scores = score(&numbers, &found, &gold).unwrap();
    assert_eq!(scores["number_accuracy"], 0.5);
    assert_eq!(scores["strict_number_accuracy"], 1.0);
    let found = values(json!(["Answer: B", "no"]));
    let letters = [LETTER_ACCURACY, STRICT_LETTER_ACCURACY];
    let scores = score(&letters, &found, &values(json!(["B", "A"]))).unwrap();
    assert_eq!(scores["letter_accuracy"], 0.0);
    assert_eq!(scores["strict_letter_accuracy"], 0.5);
    for (metric, gold) in [
        (ROUGE_1, json!([])),
        (ROUGE_1, json!(["a", 1])),
        (NUMBER_ACCURACY, json!("B")),
        (LETTER_ACCURACY, json!("7")),
    ] {
        let error = score(&[metric], &[json!("x")], &[gold]).unwrap_err();
        assert!(error.to_string().contains("expected a"), "{error}");
    }
    let error = score(&[ROUGE_1], &[json!(3)], &[json!("x")]).unwrap_err();
    assert!(
        error.to_string().contains("expected a text, found 3"),
        "{error}"
    );
}

#[test]
fn metrics_of_other_targets_are_refused_by_name() {
    let any = json!([0, 0]);
    assert_eq!(suit(&[MICRO_F1, MACRO_F1, EXACT_MATCH], &any), Ok(()));
    for (metric, target) in [(ACCURACY, &any), (F1, &json!(0.5)), (MICRO_F1, &json!(0.5))] {
        let error = suit(&[metric], target).unwrap_err();
        assert!(error.contains(metric.name), "{error}");
    }
    assert!(suit(&[MSE], &json!("a")).is_err());
}

#[test]
fn the_first_of_equals_is_the_largest() {
    assert_eq!(argmax(&[0.5, 0.5, -1.0]), 0);
    assert_eq!(argmax(&[-1.0, 2.0, 3.0, 3.0]), 2);
}
