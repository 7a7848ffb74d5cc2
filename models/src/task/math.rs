use super::{Format, Json, LabelSet, Split, Task};

/// Word problems with solutions in words, as LLM-Adapters (Hu et al., 2023) collected them, in Alpaca's
/// form and prompts (Taori et al., 2023). The model learns to write the solution behind the problem.
pub(super) static MATH: Task = Task {
    name: "math",
    aliases: &[],
    labels: LabelSet::Text {
        prompt: "Below is an instruction that describes a task. Write a response that \
                 appropriately completes the request.\n\n### Instruction:\n{}\n\n### Response:\n",
        prompt_with_input: "Below is an instruction that describes a task, paired with an input that \
                            provides further context. Write a response that appropriately completes \
                            the request.\n\n### Instruction:\n{}\n\n### Input:\n{input}\n\n\
                            ### Response:\n",
    },
    format: Format::Json(Json {
        text: &["instruction"],
        input: Some("input"),
        label: "output",
        // The number that the solution comes to.
        beside: &["answer"],
        misspelt: &[],
    }),
    train: Split::whole("train", "train.json"),
    dev: &[],
    metrics: &[],
};
