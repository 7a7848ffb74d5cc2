//! Names of columns that say what they are for.

/// Names of columns with a text, and of those with the second one of a pair beside it.
pub const TEXTS: [(&str, &[&str]); 11] = [
    ("text", &["text_pair", "pair", "text2"]),
    ("sentence1", &["sentence2"]),
    ("premise", &["hypothesis"]),
    ("question1", &["question2"]),
    ("text1", &["text2"]),
    ("question", &["sentence", "passage"]),
    ("query", &["passage", "document"]),
    ("sentence", &[]),
    ("review", &[]),
    ("content", &[]),
    ("document", &[]),
];
/// Names of columns with what is to be predicted.
pub const LABELS: [&str; 10] = [
    "label",
    "labels",
    "target",
    "targets",
    "score",
    "class",
    "category",
    "sentiment",
    "rating",
    "stars",
];
/// Names of columns with a conversation.
pub const CHATS: [&str; 2] = ["messages", "conversations"];
/// A prompt's template, of a column that is named first, and the column of its answer.
pub const ANSWERS: [(&str, &str, &str); 6] = [
    ("prompt", "{prompt}", "completion"),
    ("prompt", "{prompt}\n", "response"),
    ("prompt", "{prompt}\n", "answer"),
    ("question", "{question}\n", "answer"),
    ("question", "{question}\n", "response"),
    ("instruction", "{instruction}\n", "response"),
];
/// Columns of a text and of one that is written about it.
pub const WRITTEN: [(&str, &str); 8] = [
    ("document", "summary"),
    ("article", "highlights"),
    ("article", "summary"),
    ("dialogue", "summary"),
    ("text", "summary"),
    ("source", "target"),
    ("input", "output"),
    ("text", "target"),
];
/// What a user says of an instruction with an input and without.
pub const ASKED: [&str; 2] = ["{instruction}\n\n{input}", "{instruction}"];
/// Alpaca's prompts (Taori et al., 2023), of records with an input and without.
pub const ALPACA: [&str; 2] = [
    "Below is an instruction that describes a task, paired with an input that provides further context. Write a response that appropriately completes the request.\n\n### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n",
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n### Instruction:\n{instruction}\n\n### Response:\n",
];
/// Names of columns with a text that questions are asked of.
pub const CONTEXTS: [&str; 3] = ["context", "passage", "paragraph"];
/// Names of columns with answers that are parts of such a text.
pub const PARTS: [&str; 2] = ["answers", "answer"];
/// Names of columns with the places where these start.
pub const STARTS: [&str; 4] = ["answer_start", "answer_starts", "starts", "start"];
/// Columns of SQuAD's questions that nothing is learned of.
pub const OF_SQUAD: [&str; 2] = ["title", "is_impossible"];
/// Columns of chats beside their messages.
pub const BESIDE: [&str; 2] = ["system", "tools"];
