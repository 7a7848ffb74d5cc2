//! Heads: what a pretrained model predicts.

use std::fmt;

use ailora_graph::{ir::Type, nn::Tensor};

use crate::batch::Shape;

/// What a model predicts, and so which head it has and what its loss is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Head {
    /// A class or a score of a sequence.
    Sequence {
        /// How many logits: one a class or a number.
        outputs: usize,
        /// What the logits are.
        problem: Problem,
    },
    /// The span of a text that answers a question: its first and last token.
    QuestionAnswering,
    /// Tokens that are masked in the input.
    MaskedLm,
    /// The next token.
    CausalLm,
    /// The next token of a target text, given an input text.
    Seq2SeqLm {
        /// How much of each label is spread over the whole vocabulary.
        smoothing: f64,
    },
}

/// What the logits of a sequence are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// Those of classes, of which one is right: cross-entropy.
    SingleLabel,
    /// Those of classes, of which each is right or not: binary cross-entropy.
    MultiLabel,
    /// Numbers: squared error.
    Regression,
}

impl Problem {
    /// `problem_type` of a model's configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SingleLabel => "single_label_classification",
            Self::MultiLabel => "multi_label_classification",
            Self::Regression => "regression",
        }
    }
}

impl Head {
    /// One of each kind.
    pub const ALL: [Self; 5] = [
        Self::classification(2),
        Self::QuestionAnswering,
        Self::MaskedLm,
        Self::CausalLm,
        Self::Seq2SeqLm { smoothing: 0.0 },
    ];

    /// One of `classes` classes of a sequence.
    pub const fn classification(classes: usize) -> Self {
        Self::Sequence {
            outputs: classes,
            problem: Problem::SingleLabel,
        }
    }

    /// Any of `classes` classes of a sequence.
    pub const fn multi_label(classes: usize) -> Self {
        Self::Sequence {
            outputs: classes,
            problem: Problem::MultiLabel,
        }
    }

    /// So many numbers of a sequence.
    pub const fn regression(outputs: usize) -> Self {
        Self::Sequence {
            outputs,
            problem: Problem::Regression,
        }
    }

    /// What PEFT calls the task, if it has a name for it.
    pub fn peft_task(self) -> Option<&'static str> {
        match self {
            Self::Sequence { .. } => Some("SEQ_CLS"),
            Self::QuestionAnswering => Some("QUESTION_ANS"),
            Self::MaskedLm => None,
            Self::CausalLm => Some("CAUSAL_LM"),
            Self::Seq2SeqLm { .. } => Some("SEQ_2_SEQ_LM"),
        }
    }

    /// The names of what a program gives of the head's logits.
    pub fn output_names(self) -> &'static [&'static str] {
        match self {
            Self::QuestionAnswering => &["start_logits", "end_logits"],
            _ => &["logits"],
        }
    }

    /// What a program gives, by name, of the logits that a network's head makes.
    pub(crate) fn outputs<'g>(self, logits: &Tensor<'g>) -> Vec<(&'static str, Tensor<'g>)> {
        let values = match self {
            Self::QuestionAnswering => vec![column(logits, 0), column(logits, 1)],
            _ => vec![logits.clone()],
        };
        let names = self.output_names().iter().copied();
        names.zip(values).collect()
    }

    /// The mean loss of a batch, `[]`, whose targets it adds to the graph as inputs, under the names
    /// that [`Targets`](crate::batch::Targets) has: the mean cross-entropy over the labels that are
    /// not -100, or the mean over all logits of the binary cross-entropy or of the squared error.
    pub fn loss<'g>(self, logits: &Tensor<'g>, shape: Shape) -> Tensor<'g> {
        let ids = |name, count| logits.cx().input(name, Type::i32([count]));
        let floats = |name, count| logits.cx().input(name, Type::f32([count]));
        match self {
            Self::Sequence { outputs, problem } => {
                // Inputs of one axis stay float32 where matrices are narrower.
                let count = shape.rows * outputs;
                match problem {
                    Problem::SingleLabel => logits.cross_entropy(&self.labels(logits, shape)),
                    Problem::MultiLabel => {
                        let logits = logits.reshape([count]);
                        let found = &logits * &floats("flags", count);
                        (&logits.softplus() - &found).mean([0]).reshape([])
                    }
                    Problem::Regression => {
                        let error = &logits.reshape([count]) - &floats("scores", count);
                        (&error * &error).mean([0]).reshape([])
                    }
                }
            }
            Self::QuestionAnswering => {
                let start = column(logits, 0).cross_entropy(&ids("start_positions", shape.rows));
                let end = column(logits, 1).cross_entropy(&ids("end_positions", shape.rows));
                (&start + &end).scale(0.5)
            }
            Self::MaskedLm | Self::CausalLm => {
                tokens(logits).cross_entropy(&self.labels(logits, shape))
            }
            Self::Seq2SeqLm { smoothing } => {
                tokens(logits).smoothed_cross_entropy(&self.labels(logits, shape), smoothing)
            }
        }
    }

    /// How many of a batch's labels are tokens with the largest logit, `[]`; nothing of a head that does
    /// not predict tokens.
    pub fn matches<'g>(self, logits: &Tensor<'g>, shape: Shape) -> Option<Tensor<'g>> {
        self.predicts_tokens().then(|| {
            let matches = tokens(logits).matches(&self.labels(logits, shape));
            matches.sum([0]).reshape([])
        })
    }

    /// Whether its logits are those of tokens.
    pub fn predicts_tokens(self) -> bool {
        matches!(
            self,
            Self::MaskedLm | Self::CausalLm | Self::Seq2SeqLm { .. }
        )
    }

    /// The input `labels`: a class of each row, or of each token.
    fn labels<'g>(
        self,
        logits: &Tensor<'g>,
        Shape {
            rows,
            len,
            target_len,
        }: Shape,
    ) -> Tensor<'g> {
        let count = match self {
            Self::Sequence { .. } | Self::QuestionAnswering => rows,
            Self::MaskedLm | Self::CausalLm => rows * len,
            Self::Seq2SeqLm { .. } => rows * target_len,
        };
        logits.cx().input("labels", Type::i32([count]))
    }
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sequence { .. } => "sequence classification",
            Self::QuestionAnswering => "question answering",
            Self::MaskedLm => "masked language modelling",
            Self::CausalLm => "causal language modelling",
            Self::Seq2SeqLm { .. } => "sequence-to-sequence language modelling",
        })
    }
}

/// `[b, s, 2]` gives `[b, s]`.
fn column<'g>(logits: &Tensor<'g>, i: usize) -> Tensor<'g> {
    let shape = logits.shape();
    let shape = shape[..shape.len().saturating_sub(1)].to_vec();
    logits.slice(2, i, i + 1).reshape(shape)
}

/// `[b, s, c]` gives `[b s, c]`.
fn tokens<'g>(logits: &Tensor<'g>) -> Tensor<'g> {
    let classes = logits.shape().last().copied().unwrap_or(1);
    let rows = logits.shape().iter().product::<usize>() / classes.max(1);
    logits.reshape([rows, classes])
}
