use ailora_graph::ir::ops::loss::IGNORED;

use super::Inputs;

/// What the rows of a batch are to be predicted as: the values of the inputs that the loss reads.
///
/// The constructors make those of the losses that [`Head`](crate::head::Head) has; an objective with
/// a loss of its own names its own inputs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Targets {
    /// The values, by the names of the program's inputs.
    pub inputs: Inputs,
    /// How many targets the mean loss of the batch is over.
    pub count: usize,
    /// Padded length of the texts to generate; 0 where none are.
    pub text_len: usize,
}

impl Targets {
    /// Targets that a loss reads under these names, `count` of them.
    pub fn new(inputs: Inputs, count: usize) -> Self {
        Self {
            inputs,
            count,
            text_len: 0,
        }
    }

    /// A class of each row, `labels` `[rows]`.
    pub fn classes(classes: Vec<i32>) -> Self {
        let count = counted(&classes);
        Self::new(Inputs::default().with_ids("labels", classes), count)
    }

    /// Whether each row has each class, 1 or 0, `flags`: `[rows, classes]` one row after the other.
    pub fn flags(flags: Vec<f32>) -> Self {
        let count = flags.len();
        Self::new(Inputs::default().with_floats("flags", flags), count)
    }

    /// The numbers of each row, `scores`: `[rows, outputs]` one row after the other.
    pub fn scores(scores: Vec<f32>) -> Self {
        let count = scores.len();
        Self::new(Inputs::default().with_floats("scores", scores), count)
    }

    /// The first and last token of each row's answer, `start_positions` and `end_positions`
    /// `[rows]`. Positions past the `len` tokens of a row do not count, as in transformers.
    pub fn spans(starts: &[i32], ends: &[i32], len: usize) -> Self {
        let [starts, ends] = [starts, ends].map(|positions| within(positions, len));
        let count = counted(&starts);
        let inputs = Inputs::default()
            .with_ids("start_positions", starts)
            .with_ids("end_positions", ends);
        Self::new(inputs, count)
    }

    /// A token at each place of the rows, -100 where none is to be predicted: `labels`
    /// `[rows, len]`.
    pub fn tokens(labels: Vec<i32>) -> Self {
        let count = counted(&labels);
        Self::new(Inputs::default().with_ids("labels", labels), count)
    }

    /// The tokens of the rows themselves, each predicted from those before it; -100 where none is to
    /// be. `labels` `[rows, len]` is at each place the token after it, and -100 at the last.
    pub fn next_tokens(tokens: &[i32], len: usize) -> Self {
        let rows = tokens.chunks(len.max(1));
        let next = rows.flat_map(|row| row.iter().skip(1).copied().chain([IGNORED]));
        Self::tokens(next.collect())
    }

    /// The tokens of the texts to generate, -100 behind them: `labels` `[rows, text_len]`.
    pub fn texts(labels: Vec<i32>, text_len: usize) -> Self {
        let targets = Self::tokens(labels);
        Self {
            text_len,
            ..targets
        }
    }
}

fn counted(labels: &[i32]) -> usize {
    labels.iter().filter(|&&label| label != IGNORED).count()
}

fn within(positions: &[i32], len: usize) -> Vec<i32> {
    let inside = |&position: &i32| usize::try_from(position).is_ok_and(|at| at < len);
    let positions = positions.iter();
    positions
        .map(|position| if inside(position) { *position } else { IGNORED })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_of_a_causal_model_are_the_next_tokens_of_the_row() {
        let targets = Targets::next_tokens(&[1, 2, 3, -100, 5, 6], 3);
        let labels = targets.inputs.ids("labels").unwrap();
        assert_eq!(labels, [2, 3, IGNORED, 5, 6, IGNORED]);
        assert_eq!((targets.count, targets.text_len), (4, 0));
    }

    #[test]
    fn spans_past_the_end_do_not_count() {
        let targets = Targets::spans(&[0, 5, -1], &[2, 7, 3], 5);
        let starts = targets.inputs.ids("start_positions").unwrap();
        assert_eq!(starts, [0, IGNORED, IGNORED]);
        let ends = targets.inputs.ids("end_positions").unwrap();
        assert_eq!(ends, [2, IGNORED, 3]);
        assert_eq!(targets.count, 1);
    }
}
