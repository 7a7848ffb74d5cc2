//! Counts of rows that were truncated or left out for their length, to be reported.

use std::fmt;

use crate::{batch::Encoded, objective::Objective};

/// How many rows were longer than sequences may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Rows in all.
    pub rows: usize,
    /// Rows that lost tokens.
    pub cut: usize,
    /// Rows in which there is nothing to learn, such as those whose prompt alone fills a sequence.
    pub unanswered: usize,
    /// The longest sequence, in tokens.
    pub limit: usize,
    /// Rows whose text to write lost tokens.
    pub targets: usize,
    /// The longest of these, in tokens.
    pub target_limit: usize,
}

impl Cut {
    /// What happened to an objective's rows that were encoded with this limit.
    pub fn of(objective: &dyn Objective, rows: &[Encoded], limit: usize) -> Self {
        Self {
            rows: rows.len(),
            cut: rows.iter().filter(|row| row.encoding.cut).count(),
            unanswered: rows
                .iter()
                .filter(|row| !objective.has_targets(row))
                .count(),
            limit,
            targets: rows.iter().filter(|row| row.encoding.target_cut).count(),
            target_limit: rows
                .iter()
                .filter(|row| row.encoding.target_cut)
                .map(|row| row.encoding.target.len())
                .max()
                .unwrap_or(0),
        }
    }

    /// Whether anything was lost.
    pub fn is_any(&self) -> bool {
        self.cut > 0 || self.unanswered > 0 || self.targets > 0
    }
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            rows,
            cut,
            unanswered,
            limit,
            targets,
            target_limit,
        } = self;
        write!(f, "{cut} of {rows} rows were cut to {limit} tokens")?;
        if *unanswered > 0 {
            write!(
                f,
                "; {unanswered} have no answer to learn, or none within that length, and are left out of the loss"
            )?;
        }
        if *targets > 0 {
            write!(
                f,
                "; in {targets} the text to write was cut to {target_limit} tokens, but scores are of the \
                 whole text"
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        objective::{Causal, Classification},
        tokenizer::Encoding,
    };

    fn row(prompt: usize, answer: usize, cut: bool) -> Encoded {
        let type_ids = [vec![0; prompt], vec![1; answer]].concat();
        Encoded {
            encoding: Encoding {
                ids: vec![7; prompt + answer],
                type_ids,
                cut,
                ..Encoding::default()
            },
            target: None,
            part: None,
        }
    }

    #[test]
    fn what_was_cut_is_counted() {
        let rows = [row(3, 2, false), row(3, 3, true), row(6, 0, true)];
        let causal = Causal::new("output");
        let cut = Cut::of(&causal, &rows, 6);
        assert_eq!((cut.rows, cut.cut, cut.unanswered), (3, 2, 1));
        let text = cut.to_string();
        assert!(
            text.starts_with("2 of 3 rows were cut to 6 tokens"),
            "{text}"
        );
        assert!(
            text.contains("; 1 have no answer to learn, or none within that length"),
            "{text}"
        );
        let none = Cut::of(&causal, &rows[..1], 6);
        assert!(cut.is_any() && !none.is_any());
        // A class needs no second segment.
        let classes = Classification::new("label", ["a", "b"], &[]);
        let cut = Cut::of(&classes, &rows, 6);
        assert_eq!((cut.cut, cut.unanswered), (2, 0));
        assert!(!cut.to_string().contains("answer"));
    }
}
