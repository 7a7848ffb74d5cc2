//! What people get wrong, and what each answer has to say: the flag, file or field; what was found; what
//! was expected, or what to do.
//!
//! One long file: one table of slips.

mod support;

use support::{Scene, TINY};

/// The beginning of a command that is right.
const FINETUNE: &str = "finetune --model bert --task cola --data cola --output out";
const PRETRAIN: &str = "pretrain --train cola/train.tsv --valid cola/dev.tsv --output out";
const MODEL: &str = "--model bert --task cola";

/// A whole command, or with `+` what comes behind [`FINETUNE`]; its exit status; and words of the answer.
type Misuse = (&'static str, i32, &'static [&'static str]);

const FLAGS: &[Misuse] = &[
    ("+--lr fast", 2, &["--lr", "'fast'", "expected a number"]),
    (
        "+--lr -1e-3",
        1,
        &["`lr` is -0.001", "expected a positive number"],
    ),
    (
        "+--lr inf",
        1,
        &["`lr` is inf", "expected a positive number"],
    ),
    (
        "+--epochs -1",
        2,
        &["--epochs", "'-1'", "expected a whole number"],
    ),
    (
        "+--epochs 2.5",
        2,
        &["--epochs", "'2.5'", "expected a whole number"],
    ),
    ("+--epochs 0", 1, &["`epochs` is 0", "at least 1"]),
    (
        "+--epochs 1000000000",
        1,
        &["`epochs` is 1000000000", "at most 100000"],
    ),
    ("+--batch-size 0", 1, &["`batch_size` is 0", "at least 1"]),
    (
        "+--batch-size 99999999999",
        1,
        &["`batch_size` is 99999999999", "at most 65536"],
    ),
    (
        "+--accumulate 70000",
        1,
        &["`accumulate` is 70000", "at most 65536"],
    ),
    (
        "+--max-length 99999999",
        1,
        &["`max_length` is 99999999", "at most 1048576"],
    ),
    ("+--max-steps 0", 1, &["`max_steps` is 0", "at least 1"]),
    (
        "+--checkpoint-every 0",
        1,
        &["`checkpoint_every` is 0", "at least 1"],
    ),
    ("+--rank 0", 1, &["rank 0", "at least 1"]),
    (
        "+--rank 4000000000",
        1,
        &["rank 4000000000 is too large", "the largest is 32"],
    ),
    (
        "+--rank 99999999999999999999",
        2,
        &["--rank", "expected a whole number"],
    ),
    (
        "+--alpha nan",
        1,
        &["alpha is NaN", "expected a positive number"],
    ),
    ("+--dropout 1", 1, &["dropout is 1", "[0, 1)"]),
    ("+--warmup 1", 1, &["`warmup` is 1", "[0, 1)"]),
    ("+--warmup -0.1", 1, &["`warmup` is -0.1", "[0, 1)"]),
    (
        "+--clip -3",
        1,
        &["`clip` is -3", "expected a positive number"],
    ),
    (
        "+--weight-decay -1",
        1,
        &["`weight_decay` is -1", "at least 0"],
    ),
    (
        "+--threads 0",
        2,
        &["--threads", "'0'", "at least 1 and at most 1024"],
    ),
    (
        "+--threads 1000000",
        2,
        &["--threads", "'1000000'", "at most 1024"],
    ),
    (
        "+--threads many",
        2,
        &["--threads", "'many'", "expected a whole number"],
    ),
    (
        "+--method zzz2",
        2,
        &["--method", "'zzz2'", "expected one of", "ailora"],
    ),
    (
        "+--schedule square",
        2,
        &["--schedule", "'square'", "linear, cosine or constant"],
    ),
    (
        "+--device gpu",
        2,
        &[
            "--device",
            "gpu",
            "expected cpu, cuda, cuda:ORDINAL or auto",
        ],
    ),
    (
        "+--precision f16",
        2,
        &["--precision", "f16", "expected f32, tf32 or bf16"],
    ),
    (
        "+--scaling sqrt",
        2,
        &["--scaling", "'sqrt'", "classic or rank_stabilized"],
    ),
    (
        "+--resume --force",
        2,
        &["--resume", "--force", "cannot be used with"],
    ),
    (
        "+--learning-rate 1e-3",
        2,
        &["--learning-rate", "unexpected argument"],
    ),
    (
        "+--text sentence",
        1,
        &["--text is for files of your own", "task cola", "--train"],
    ),
    ("+--pair other", 1, &["--pair is for files of your own"]),
    ("+--label label", 1, &["--label is for files of your own"]),
    ("+--format csv", 1, &["--format is for files of your own"]),
    (
        "+--valid cola/dev.tsv",
        1,
        &["--valid is for files of your own"],
    ),
    (
        "+--test cola/dev.tsv",
        1,
        &["--test is for files of your own"],
    ),
    (
        "+--hold-out 0.1",
        1,
        &["--hold-out is for files of your own"],
    ),
    ("+--stream", 1, &["--stream is for files of your own"]),
    (
        "+--learn all",
        1,
        &["--learn is for chats", "classification"],
    ),
    (
        "+--chat-template chatml",
        1,
        &["--chat-template is for chats", "classification"],
    ),
    (
        "finetune --task cola --data cola",
        2,
        &["--output", "required"],
    ),
    (
        "finetune --output out",
        1,
        &["nothing is given to learn", "--task"],
    ),
    (
        "finetune --model bert --task cola --output out",
        1,
        &["`data` is not given", "--data"],
    ),
    (
        "finetune --model bert --task cole --data cola --output out",
        1,
        &["`cole`", "`cola`"],
    ),
    (
        "finetune --model bert --task cola --data cola --output -",
        1,
        &["- is standard output", "folder"],
    ),
    (
        "fine-tune --output out",
        2,
        &["unrecognized subcommand 'fine-tune'", "finetune"],
    ),
];

const ADAPTERS: &[Misuse] = &[
    ("+--adapt key", 2, &["--adapt", "'key'", "PATTERN={..}"]),
    (
        "+--adapt key=",
        2,
        &["--adapt", "nothing is changed at `key`", "`init`"],
    ),
    (
        "+--adapt key={rank:4}",
        2,
        &["--adapt", "`rank:4`", "a blank behind the colon"],
    ),
    (
        "+--adapt key={}",
        2,
        &["--adapt", "nothing is changed at `key`"],
    ),
    (
        "+--adapt key=random",
        2,
        &[
            "--adapt",
            "\"random\"",
            "expected fields, each with a value",
        ],
    ),
    (
        "+--adapt key={\"rank\":4}",
        1,
        &["pattern `key`", "which takes no `rank`", "give `init"],
    ),
    (
        "+--adapt key={\"init\":\"random\"}",
        1,
        &["pattern `key`", "give `rank` beside `init`"],
    ),
    (
        "+--adapt key={\"init\":\"randm\",\"rank\":4}",
        2,
        &["--adapt", "`init`", "`randm`", "random"],
    ),
    (
        "+--adapt key={\"init\":{\"rank\":4}}",
        2,
        &["--adapt", "`init`", "`rank`", "random"],
    ),
    (
        "+--adapt query={\"rank\":-4}",
        2,
        &["--adapt", "`rank`", "`-4`", "expected a whole number"],
    ),
    (
        "+--adapt query={\"rank\":\"four\"}",
        2,
        &["--adapt", "`rank`", "\"four\"", "expected a whole number"],
    ),
    (
        "+--adapt query={\"rnak\":4}",
        2,
        &["--adapt", "`rnak`", "unknown field", "`rank`"],
    ),
    (
        "+--adapt qery={\"rank\":4}",
        1,
        &["pattern `qery`", "did you mean `query`?"],
    ),
];

/// What is in a file `settings`, as YAML; then as in [`Misuse`], of [`FINETUNE`] with `--config settings`.
const FILES: &[(&str, &[&str])] = &[
    (
        "learning_rate: 1",
        &["unknown field `learning_rate`", "`lr`"],
    ),
    (
        "epochs: many",
        &["`epochs`", "\"many\"", "expected a whole number"],
    ),
    (
        "epochs: -1",
        &["`epochs`", "`-1`", "expected a whole number"],
    ),
    ("lr: [1]", &["`lr`", "sequence", "expected a number"]),
    (
        "strict: maybe",
        &["`strict`", "\"maybe\"", "expected true or false"],
    ),
    ("schedule: square", &["`schedule`", "`square`", "cosine"]),
    ("device: {cuda: 1}", &["`device`", "map", "expected"]),
    ("device: gpu", &["`device`", "`gpu`", "expected cpu, cuda"]),
    (
        "adapters: 3",
        &["`adapters`", "`3`", "expected fields, each with a value"],
    ),
    (
        "adapters: {method: best}",
        &["`adapters.method`", "`best`", "ailora"],
    ),
    (
        "adapters: {sites: {key: 3}}",
        &["`adapters.sites.key`", "`3`", "expected fields"],
    ),
    (
        "adapters: {sites: {key: {init: minr}}}",
        &["`adapters.sites.key.init`", "`minr`", "minor"],
    ),
    (
        "optimizer: {beta1: x}",
        &["`optimizer.beta1`", "\"x\"", "expected a number"],
    ),
    ("optimizer: {beta3: 0.5}", &["`beta3`", "`beta2`"]),
    ("- lr", &["line 1", "expected mapping"]),
    ("lr: 1\nlr: 2", &["lr", "duplicate"]),
    ("lr: {", &["line 1"]),
];

const PLACES: &[Misuse] = &[
    (
        "+--config nowhere.yaml",
        1,
        &["nowhere.yaml", "cannot read it"],
    ),
    ("+--config bert", 1, &["bert", "cannot read it"]),
    (
        "+--adapter-config nowhere.yaml",
        1,
        &["nowhere.yaml", "cannot read it"],
    ),
    (
        "finetune --model nowhere --task cola --data cola --output out",
        1,
        &["`nowhere`", "path of a folder"],
    ),
    (
        "finetune --model bert --task cola --data nowhere --output out",
        1,
        &["nowhere", "train.tsv"],
    ),
    (
        "finetune --model bert --task cola --data cola --output file",
        1,
        &["file is a file", "folder"],
    ),
    (
        "finetune --model bert --task cola --data cola --output cola",
        1,
        &["cola", "holds what is read"],
    ),
    (
        "predict --data cola/dev.tsv --output bert @",
        1,
        &["bert is a folder", "name of a file"],
    ),
    (
        "predict --data nowhere.tsv --output rows @",
        1,
        &["nowhere.tsv", "cannot read"],
    ),
    (
        "predict --data cola/dev.tsv --output rows --batch-size 0 @",
        2,
        &["--batch-size", "at least 1"],
    ),
    (
        "evaluate --data cola --batch-size 100000 @",
        2,
        &["--batch-size", "at most 65536"],
    ),
    (
        "evaluate --data cola --max-length 2 @",
        1,
        &["maximum length 2", "at least 3"],
    ),
    (
        "evaluate --data cola --adapter cola @",
        1,
        &["cola", "adapter_config.json"],
    ),
    (
        "merge --adapter nowhere --output out @",
        1,
        &["nowhere", "adapter_config.json"],
    ),
    ("plan --batch-size 0 @", 2, &["--batch-size", "at least 1"]),
    ("plan --length 0 @", 2, &["--length", "at least 1"]),
    ("plan --length 41 @", 1, &["41", "40"]),
    ("explain --svg - --dot - @", 1, &["standard output", "name"]),
    ("explain --site zzz @", 1, &["`zzz`", "layer.0.attention"]),
    (
        "evaluate --data cola --batch-size -4 @",
        2,
        &["--batch-size", "'-4'", "at least 1"],
    ),
    (
        "generate --model bert --prompt x --max-new-tokens -1",
        2,
        &["--max-new-tokens", "'-1'", "a whole number"],
    ),
    (
        "spectrum --model bert --plot plot.jpg",
        1,
        &["plot.jpg", ".svg or .png"],
    ),
    (
        "spectrum --model bert --rank 0",
        1,
        &["--rank is 0", "1 to 32"],
    ),
    ("demo --seeds 0", 2, &["--seeds", "'0'", "1"]),
    (
        "generate --model bert --prompt x",
        1,
        &["bert", "no head for"],
    ),
];

const MODELS: &[(&str, &[&str])] = &[
    ("--layers 1000000", &["`layers` is 1000000", "at most 1024"]),
    ("--layers 0", &["`layers` is 0", "at least 1"]),
    (
        "--width 100000000",
        &["`width` is 100000000", "at most 65536"],
    ),
    (
        "--width 65536 --layers 1024",
        &["`width`", "`layers`", "bytes of memory", "smaller"],
    ),
    (
        "--width 10 --heads 3",
        &["`heads` is 3", "a divisor of `width`"],
    ),
    ("--heads 0", &["`heads` is 0", "at least 1"]),
    (
        "--length 999999999",
        &["`length` is 999999999", "at most 1048576"],
    ),
    ("--length 1", &["`length` is 1", "at least 8"]),
    (
        "--vocab-size 1000000000",
        &["`vocab_size` is 1000000000", "at most 1048576"],
    ),
    ("--vocab-size 3", &["`vocab_size` is 3", "at least 261"]),
    ("--epochs 0", &["`epochs` is 0", "at least 1"]),
    (
        "--batch-size 9999999",
        &["`batch_size` is 9999999", "at most 65536"],
    ),
    ("--masked 1", &["`masked` is 1", "between 0 and 1"]),
    ("--dropout 2", &["`dropout` is 2", "[0, 1)"]),
    (
        "--checkpoint-every 0",
        &["`checkpoint_every` is 0", "at least 1"],
    ),
];

/// Runs a command that fails, with an answer that has all of `words`; what is wrong with the answer.
fn fault(scene: &Scene, command: &str, code: i32, words: &[&str]) -> Option<String> {
    let ran = scene.run(command);
    let said = ran.stderr;
    // Nobody wrote a field that is missing, and nobody knows the types of this program.
    let wrong = [
        "panicked",
        "missing field",
        "usize",
        "u64",
        "f64",
        "expected struct",
    ];
    let wrong = wrong.iter().find(|word| said.contains(**word));
    let lacks = ["error: "]
        .iter()
        .chain(words)
        .find(|word| !said.contains(**word));
    match (wrong, lacks) {
        (None, None) if ran.code == Some(code) => None,
        _ => Some(format!(
            "{command}: status {:?}, has {wrong:?}, lacks {lacks:?}\n{said}\n",
            ran.code
        )),
    }
}

#[test]
fn every_misuse_has_an_answer_that_says_what_to_do() {
    let scene = Scene::new();
    scene.write("file", "mine");
    let mut faults = Vec::new();
    for &(command, code, words) in [FLAGS, ADAPTERS, PLACES].concat().iter() {
        let command = match command.strip_prefix('+') {
            Some(more) => format!("{FINETUNE} {more}"),
            None => command.replace('@', MODEL),
        };
        faults.extend(fault(&scene, &command, code, words));
    }
    for (text, words) in FILES {
        scene.write("settings", text);
        let command = format!("{FINETUNE} --config settings");
        let fault = fault(&scene, &command, 1, &[&["settings"], *words].concat());
        faults.extend(fault.map(|fault| format!("{text}: {fault}")));
    }
    for (more, words) in MODELS {
        faults.extend(fault(&scene, &format!("{PRETRAIN} {more}"), 1, words));
    }
    assert!(faults.is_empty(), "{}", faults.concat());
    assert!(!scene.path("out").exists() && scene.read("file") == b"mine");
}

#[test]
fn a_record_of_another_kind_is_no_configuration() {
    let scene = Scene::new();
    scene.ok(&format!("{PRETRAIN} --vocab-size 300 --width 16 --layers 1 --heads 2 --length 16 --batch-size 4 --max-steps 1"));
    let words = &["out/run.json", "unknown field `train`"];
    let other = format!("finetune --model bert {TINY} --config out/run.json --output new");
    assert_eq!(fault(&scene, &other, 1, words), None);
    let resumed = format!("finetune --model bert {TINY} --output out --resume");
    assert_eq!(fault(&scene, &resumed, 1, words), None);
    assert!(!scene.path("new").exists());
}
