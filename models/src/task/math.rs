use super::{Format, Json, LabelSet, Split, Task};

/// Word problems with solutions in words, as LLM-Adapters (Hu et al., 2023) collected them. The model
/// learns to write the solution behind the problem.
pub(super) static MATH: Task = Task {
    name: "math",
    aliases: &[],
    labels: LabelSet::Text {
        prompt: "Below is an instruction that describes a task. Write a response that \
                 appropriately completes the request.\n\n### Instruction:\n{}\n\n### Response:\n",
    },
    format: Format::Json(Json {
        text: &["instruction"],
        label: "output",
        misspelt: &[],
    }),
    train: Split::whole("train", "train.json"),
    dev: &[],
    metrics: &[],
};
