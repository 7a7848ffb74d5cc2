use ailora_graph::ir::ops::loss::IGNORED;
use proptest::prelude::*;

use super::*;
use crate::batch::Plan;

/// Documents of these lengths, of which all tokens differ.
fn documents(lengths: &[usize]) -> Vec<Vec<u32>> {
    let mut ids = 0_u32..;
    let document = |&length: &usize| ids.by_ref().take(length).collect();
    lengths.iter().map(document).collect()
}

fn packed(lengths: &[usize], max_len: usize, stride: Option<usize>) -> Vec<Encoded> {
    rows(documents(lengths).into_iter(), max_len, stride)
}

/// The rows as one batch with its labels.
fn batch(rows: &[Encoded], len: usize, pad: u32) -> Batch {
    let plan = Plan {
        len,
        indices: (0..rows.len()).collect(),
    };
    let mut batch = Batch::new(&plan, rows, pad).unwrap();
    let refs: Vec<&Encoded> = rows.iter().collect();
    let objective = RawText::default();
    objective
        .prepare(&mut batch, &refs, Draw::default())
        .unwrap();
    batch
}

/// Of each target: the token, and how many tokens of its document are before it in its row.
fn targets(rows: &[Encoded], len: usize) -> Vec<(i32, usize)> {
    let batch = batch(rows, len, 1);
    let labels = batch.targets.inputs.ids("labels").unwrap();
    let target = |(at, &label): (usize, &i32)| {
        if label == IGNORED {
            return None;
        }
        assert_eq!(batch.ids[at + 1], label);
        let row = at / len * len;
        let seen = (row..=at).filter(|&i| batch.mask[i] == batch.mask[at]);
        Some((label, seen.count()))
    };
    let targets: Vec<_> = labels.iter().enumerate().filter_map(target).collect();
    assert_eq!(targets.len(), batch.targets.count);
    targets
}

#[test]
fn packed_documents_do_not_predict_each_other() {
    let rows = rows([vec![1, 2], vec![3, 4, 5]].into_iter(), 8, None);
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].encoding.parts, [0, 2]);
    let found: Vec<i32> = targets(&rows, 8).iter().map(|&(id, _)| id).collect();
    assert_eq!(found, [2, 4, 5]);
    // In a row of its own, a document has no parts.
    assert!(packed(&[3], 8, None)[0].encoding.parts.is_empty());
}

/// The end is learned though it is the padding token, too: what is padding goes by the length.
#[test]
fn the_end_is_a_target_though_it_is_the_padding_too() {
    let rows = rows([vec![0, 3, 1], vec![0, 3, 4, 1]].into_iter(), 4, None);
    let batch = batch(&rows, 4, 1);
    let labels = batch.targets.inputs.ids("labels").unwrap();
    assert_eq!(labels, [3, 1, IGNORED, IGNORED, 3, 4, 1, IGNORED]);
    assert_eq!(batch.mask, [1., 1., 1., 0., 1., 1., 1., 1.]);
}

#[test]
fn windows_score_each_token_once() {
    for (stride, windows, least) in [
        (None, 3, 1),
        (Some(10), 3, 1),
        (Some(5), 4, 5),
        (Some(3), 6, 7),
    ] {
        let rows = packed(&[25], 10, stride);
        assert_eq!(rows.len(), windows, "{stride:?}");
        let found = targets(&rows, 10);
        let ids: Vec<i32> = found.iter().map(|&(id, _)| id).collect();
        assert_eq!(ids, (1..25).collect::<Vec<_>>(), "{stride:?}");
        // All that the first window leaves is predicted from that many tokens at least.
        let context = found[9..].iter().map(|&(_, context)| context).min();
        assert_eq!(context, Some(least), "{stride:?}");
        // With a token that all texts begin with.
        assert_eq!(targets(&packed(&[26], 10, stride), 10).len(), 25);
    }
    let whole = packed(&[25], 25, None);
    for (window, stride) in [(25, 1), (25, 7), (40, 25), (40, 99)] {
        assert_eq!(packed(&[25], window, Some(stride)), whole);
    }
}

#[test]
fn documents_go_into_the_first_of_the_last_rows_with_room() {
    let lengths = |rows: Vec<Encoded>| -> Vec<usize> { rows.iter().map(Encoded::tokens).collect() };
    assert_eq!(lengths(packed(&[6, 5, 4, 5, 9], 10, None)), [10, 10, 9]);
    // Nine rows behind, the first is not looked at any more.
    assert_eq!(
        lengths(packed(&[6, 9, 9, 9, 9, 9, 9, 9, 4], 10, None))[0],
        10
    );
    assert_eq!(
        lengths(packed(&[6, 9, 9, 9, 9, 9, 9, 9, 9, 4], 10, None))[0],
        6
    );
    // The rest of a long one makes room for others.
    assert_eq!(lengths(packed(&[25, 2, 2], 10, None)), [10, 10, 9, 2]);
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let make = |options: &str| {
        let options: Value = serde_json::from_str(options).unwrap();
        crate::choice::options::<RawText>(options).and_then(RawText::checked)
    };
    assert_eq!(make("{}"), Ok(RawText::new(None)));
    assert_eq!(make(r#"{"stride": 3}"#), Ok(RawText::new(Some(3))));
    assert!(make(r#"{"stride": 0}"#).unwrap_err().contains("at least 1"));
    assert!(make(r#"{"stride": -1}"#).unwrap_err().contains("stride"));
    assert!(make(r#"{"window": 3}"#).unwrap_err().contains("window"));
}

proptest! {
    /// Every token is in a row, every one but a document's first is a target once, from its own document
    /// alone, and from as many tokens as the stride leaves; whatever the lengths.
    #[test]
    fn nothing_is_dropped_and_nothing_scored_twice(
        lengths in prop::collection::vec(0_usize..40, 0..30),
        max_len in 2_usize..24,
        stride in prop::option::of(1_usize..30),
    ) {
        let rows = packed(&lengths, max_len, stride);
        let mut ids: Vec<u32> = rows.iter().flat_map(|row| row.encoding.ids.clone()).collect();
        ids.sort_unstable();
        ids.dedup();
        prop_assert_eq!(ids.len(), lengths.iter().sum::<usize>());
        prop_assert!(rows.iter().all(|row| (1..=max_len).contains(&row.tokens())));
        let all = documents(&lengths);
        let mut found = targets(&rows, max_len);
        found.sort_unstable();
        let expected: Vec<i32> = all.iter().flat_map(|d| d.iter().skip(1)).map(|&id| id as i32).collect();
        let targets: Vec<i32> = found.iter().map(|&(id, _)| id).collect();
        prop_assert_eq!(targets, expected);
        let least = max_len - step(max_len, stride);
        for (id, context) in found {
            let document = all.iter().find(|d| d.contains(&(id as u32))).unwrap();
            let before = (id as u32 - document[0]) as usize;
            prop_assert!(context >= least.min(before) && context <= before);
        }
    }
}
