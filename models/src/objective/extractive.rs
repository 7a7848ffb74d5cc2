use std::ops::Range;

use ailora_graph::ir::Draw;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Objective;
use crate::{
    batch::{Batch, BatchError, Encoded, Targets},
    data::{DataError, Example, Record},
    head::Head,
    tokenizer::{Tokenizer, TokenizerError},
};

/// The part of the second text that answers the first, by the cross-entropy of its first and its
/// last token.
///
/// A target is the answer with the character it starts at, or null where there is none; of an encoded
/// row, the answer's first and last token. A question without an answer has the first token of the
/// row for both, as in SQuAD 2.0. Padding is among the places that may be chosen, as in transformers.
/// There is no metric: the score is the mean loss.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Extractive {
    /// The column of the answer: a text, or a list of texts, of which the first is learned.
    pub answers: String,
    /// The column of where the answer starts: a number of Unicode code points, or a list of them.
    pub starts: String,
}

impl Extractive {
    /// The first and the last token of an answer, if all of it is there.
    fn tokens(&self, answer: &Value, places: &[Option<Range<usize>>]) -> Option<[usize; 2]> {
        let (Some(start), Some(text)) = (answer["start"].as_u64(), answer["text"].as_str()) else {
            return Some([0, 0]);
        };
        let start = usize::try_from(start).ok()?;
        let end = start + text.chars().count();
        // Offsets of tokens may overlap, or leave marks out: whatever has a part of it is of it.
        let overlaps = |place: &Option<Range<usize>>| {
            let place = place.as_ref();
            place.is_some_and(|place| place.start < end && place.end > start)
        };
        let first = places.iter().position(overlaps)?;
        let last = places.iter().rposition(overlaps)?;
        // Where the text goes on before and behind the answer, nothing of that was cut.
        let is_there = |places: &[Option<Range<usize>>]| places.iter().any(Option::is_some);
        let starts = places[first]
            .as_ref()
            .is_some_and(|place| place.start <= start);
        let ends = places[last].as_ref().is_some_and(|place| place.end >= end);
        let whole =
            (starts || is_there(&places[..first])) && (ends || is_there(&places[last + 1..]));
        whole.then_some([first, last])
    }
}

/// The first of a list, or what is no list itself.
fn first(value: Option<&Value>) -> Option<&Value> {
    match value {
        Some(Value::Array(values)) => values.first(),
        other => other.filter(|value| !value.is_null()),
    }
}

impl Objective for Extractive {
    fn head(&self) -> Head {
        Head::QuestionAnswering
    }

    fn columns(&self) -> Vec<&str> {
        vec![&self.answers, &self.starts]
    }

    fn target(&self, record: &Record<'_>) -> Result<Value, DataError> {
        let text = match first(record.get(&self.answers)) {
            None => return Ok(Value::Null),
            Some(Value::String(text)) => text,
            Some(_) => return Err(record.wrong(&self.answers, "a text or a list of texts")),
        };
        let start = match first(record.get(&self.starts)) {
            Some(Value::String(written)) => written.parse().ok(),
            other => other.and_then(Value::as_u64),
        };
        match start {
            Some(start) => Ok(json!({"text": text, "start": start})),
            None => Err(record.wrong(&self.starts, "the number of the answer's first character")),
        }
    }

    /// As by default, with the tokens of the answers.
    fn encode(
        &self,
        examples: &[Example],
        tokenizer: &Tokenizer,
        max_len: usize,
    ) -> Result<Vec<Encoded>, TokenizerError> {
        let encode = |example: &Example| {
            let context = example.pair.as_deref().unwrap_or_default();
            let (encoding, places) =
                tokenizer.encode_with_places(&example.text, context, max_len)?;
            let answer = example.target.as_ref();
            let target = answer.and_then(|answer| self.tokens(answer, &places));
            let target = target.map(|tokens| json!(tokens));
            Ok(Encoded { encoding, target })
        };
        examples.iter().map(encode).collect()
    }

    /// Whether the answer was not cut off.
    fn has_targets(&self, row: &Encoded) -> bool {
        row.target.is_some()
    }

    fn prepare(&self, batch: &mut Batch, rows: &[&Encoded], _: Draw) -> Result<(), BatchError> {
        // Without an answer, past the end, which does not count.
        let token = |row: &&Encoded, i: usize| -> i32 {
            let token = row.target.as_ref().and_then(|tokens| tokens[i].as_i64());
            token
                .and_then(|token| i32::try_from(token).ok())
                .unwrap_or(i32::MAX)
        };
        let [starts, ends] =
            [0, 1].map(|i| rows.iter().map(|row| token(row, i)).collect::<Vec<_>>());
        batch.targets = Targets::spans(&starts, &ends, batch.len);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{batch::Plan, data::Place};

    fn extractive() -> Extractive {
        Extractive {
            answers: "answers".into(),
            starts: "starts".into(),
        }
    }

    fn target(answers: Value, starts: Value) -> Result<Value, String> {
        let fields = vec![("answers".into(), answers), ("starts".into(), starts)];
        let record = Record::new(Path::new("f"), Place::Record(1), fields);
        extractive()
            .target(&record)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn the_first_answer_is_learned_and_none_is_one_too() {
        let expected = json!({"text": "forty two", "start": 32});
        assert_eq!(
            target(json!(["forty two", "42"]), json!([32, 5])),
            Ok(expected.clone())
        );
        assert_eq!(target(json!("forty two"), json!("32")), Ok(expected));
        assert_eq!(target(json!([]), json!([])), Ok(Value::Null));
        let error = target(json!(["a"]), json!([-1])).unwrap_err();
        assert!(
            error.contains("record 1, column `starts`: expected the number"),
            "{error}"
        );
        let error = target(json!([3]), json!([1])).unwrap_err();
        assert!(
            error.contains("column `answers`: expected a text or a list"),
            "{error}"
        );
    }

    #[test]
    fn tokens_are_those_that_have_a_part_of_the_answer() {
        // [CLS] Who? [SEP] Cafe' is open [SEP], without the combining mark.
        let places = [None, None, None, Some(0..4), Some(6..8), Some(9..13), None];
        let tokens = |text: &str, start: u64| {
            extractive().tokens(&json!({"text": text, "start": start}), &places)
        };
        assert_eq!(tokens("Cafe\u{301}", 0), Some([3, 3]));
        assert_eq!(tokens("open", 9), Some([5, 5]));
        assert_eq!(tokens("s op", 7), Some([4, 5]));
        // Cut off in its midst, and altogether.
        assert_eq!(tokens("open now", 9), None);
        assert_eq!(tokens("now", 14), None);
        assert_eq!(extractive().tokens(&Value::Null, &places), Some([0, 0]));
    }

    #[test]
    fn rows_without_an_answer_do_not_count() {
        let row = |target: Option<Value>| Encoded {
            encoding: crate::tokenizer::Encoding {
                ids: vec![5; 4],
                type_ids: vec![0; 4],
                ..Default::default()
            },
            target,
        };
        let rows = [row(Some(json!([1, 3]))), row(None)];
        let plan = Plan {
            len: 4,
            indices: vec![0, 1],
        };
        let mut batch = Batch::new(&plan, &rows, 0).unwrap();
        let refs: Vec<&Encoded> = rows.iter().collect();
        extractive()
            .prepare(&mut batch, &refs, Draw::default())
            .unwrap();
        assert_eq!(batch.targets, Targets::spans(&[1, 4], &[3, 4], 4));
        assert_eq!(batch.targets.count, 1);
        assert!(!extractive().has_targets(&rows[1]));
    }
}
