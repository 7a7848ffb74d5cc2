use proptest::prelude::*;
use serde::Deserialize;

use super::*;

fn scores(target: &str, prediction: &str) -> [Score; 4] {
    let kinds = KINDS.map(|(_, kind)| kind);
    let scores = Rouge::default().score(&kinds, &[target], prediction);
    scores.try_into().unwrap()
}

fn close(found: f64, expected: f64) -> bool {
    (found - expected).abs() < 1e-12
}

/// PITFALLS 80.
#[test]
fn sentences_are_lines_of_which_marks_remind() {
    let [_, _, l, lsum] = scores("a b c.\nd e f.", "d e f.\na b c.");
    assert!(close(l.f, 0.5) && close(lsum.f, 1.0));
    let [_, _, _, lsum] = scores("a b c. d e f.", "d e f. a b c.");
    assert!(close(lsum.f, 0.5));
    let [one, ..] = scores("a b c .<n>d e f .", "a b c .\nd e f .");
    assert!((one.f - 0.9231).abs() < 5e-5, "{one:?}");
    let text = with_newlines("a b c .<n>d e f .<q>g");
    assert_eq!(text, "a b c .\nd e f .\ng");
    assert_eq!(with_newlines("a < n > b"), "a < n > b");
}

/// PITFALLS 82.
#[test]
fn tokens_are_runs_of_letters_and_digits() {
    let [one, ..] = scores("U.S.-based, it's 3.5%", "us based it s 3 5");
    assert!(close(one.precision, 5.0 / 6.0) && close(one.recall, 5.0 / 7.0));
    assert!(close(one.f, 10.0 / 13.0));
    let [one, ..] = scores("1,000 people", "1000 people");
    assert!(close(one.f, 0.4));
    let [one, ..] = scores("foo_bar", "foo bar");
    assert!(close(one.f, 1.0));
    for (target, prediction) in [("a b", ""), ("", "a b"), ("", ""), ("...", "?\n")] {
        assert_eq!(scores(target, prediction), [Score::default(); 4]);
    }
}

/// PITFALLS 83: `was` would lose its s.
#[test]
fn short_tokens_are_not_stemmed() {
    let [one, ..] = scores("was running communities", "wa run community");
    assert!(close(one.f, 2.0 / 3.0));
    let plain = Rouge { stem: false };
    let [one] = plain.score(&[Kind::Ngrams(1)], &["running"], "run")[..] else {
        panic!("one kind, one score")
    };
    assert_eq!(one, Score::default());
}

/// PITFALLS 84.
#[test]
fn each_kind_takes_the_reference_that_is_best_for_it() {
    let kinds = [Kind::Ngrams(1), Kind::Ngrams(2), Kind::Lcs];
    let found = Rouge::default().score(&kinds, &["d c b a", "a b x y z"], "a b c d");
    for (found, expected) in found.iter().zip([1.0, 2.0 / 7.0, 4.0 / 9.0]) {
        assert!(close(found.f, expected), "{found:?}");
    }
    assert_eq!(
        Rouge::default().score(&kinds, &[], "a"),
        [Score::default(); 3]
    );
}

/// PITFALLS 86: nothing is cut.
#[test]
fn long_references_are_scored_whole() {
    let long: Vec<String> = (0..200).map(|i| format!("w{i}")).collect();
    let long = long.join(" ");
    assert!(scores(&long, &long).iter().all(|score| close(score.f, 1.0)));
}

#[test]
fn the_score_of_a_corpus_is_the_mean_over_its_rows() {
    let targets = [vec!["a b"], vec!["c"], vec!["x", "y z"]];
    let [one] = Rouge::default().corpus(&[Kind::Ngrams(1)], &targets, &["a", "d", "z"])[..] else {
        panic!("one kind, one score")
    };
    assert!(close(one.precision, 2.0 / 3.0) && close(one.recall, 1.0 / 3.0));
    assert!(close(one.f, (2.0 / 3.0 + 2.0 / 3.0) / 3.0));
    assert_eq!(
        Rouge::default().corpus::<&str>(&[Kind::Lcs], &[], &[]),
        [Score::default()]
    );
}

/// References, a summary, and the scores with the stemmer and without.
type Row = (Vec<String>, String, [[f64; 3]; 4], [[f64; 3]; 4]);

#[derive(Deserialize)]
struct Fixture {
    drawn: Vec<Row>,
    pairs: Vec<Row>,
}

/// Expected: rouge-score 0.1.2.
#[test]
fn scores_are_those_of_rouge_score() {
    let fixture = include_str!("../../../../tests/fixtures/score/rouge.json");
    let Fixture { drawn, pairs } = serde_json::from_str(fixture).unwrap();
    assert!(drawn.len() > 200 && pairs.len() > 60);
    let kinds = KINDS.map(|(_, kind)| kind);
    for (references, summary, stemmed, plain) in drawn.iter().chain(&pairs) {
        let references: Vec<&str> = references.iter().map(String::as_str).collect();
        for (stem, expected) in [(true, stemmed), (false, plain)] {
            let found = Rouge { stem }.score(&kinds, &references, summary);
            let found: Vec<[f64; 3]> = found.iter().map(|s| [s.precision, s.recall, s.f]).collect();
            let pairs = found.iter().flatten().zip(expected.iter().flatten());
            for (a, b) in pairs {
                assert!(
                    close(*a, *b),
                    "{references:?}, {summary:?}: {found:?} != {expected:?}"
                );
            }
        }
    }
}

proptest! {
    #[test]
    fn scores_are_shares_and_do_not_depend_on_case(
        target in "[a-dA-D .\n]{0,40}|\\PC{0,20}",
        prediction in "[a-dA-D .\n]{0,40}|\\PC{0,20}",
    ) {
        let found = scores(&target, &prediction);
        for Score { precision, recall, f } in found {
            prop_assert!([precision, recall, f].iter().all(|share| (0.0..=1.0).contains(share)));
        }
        let ascii = [&target, &prediction].map(|text| text.to_ascii_uppercase());
        prop_assert_eq!(found, scores(&ascii[0], &ascii[1]));
        let swapped = scores(&prediction, &target);
        for (kind, (a, b)) in found.iter().zip(&swapped).enumerate().take(3) {
            prop_assert!(close(a.precision, b.recall) && close(a.f, b.f), "{}", KINDS[kind].0);
        }
    }
}
