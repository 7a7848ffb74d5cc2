//! Runs of the built command that are stopped, resumed, and told to write where something is.
//!
//! One long file: the runs share one scene.
#![cfg(unix)]

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read},
    os::unix::{
        fs::{PermissionsExt, symlink},
        process::ExitStatusExt,
    },
    path::Path,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use serde_json::Value;

mod support;

use support::{Scene, TINY};

/// A run that is long enough to be stopped: 600 steps.
const LONG: &str = "--epochs 100 --dropout 0.1 --seed 3";

/// Starts a command, and returns when its run has made a few steps.
fn start(scene: &Scene, output: &str, mut command: Command) -> Child {
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let start = Instant::now();
    while scene.losses(output).len() < 8 {
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "no step was made"
        );
        sleep(Duration::from_millis(1));
    }
    child
}

/// The long run.
fn long(output: &str, more: &str) -> String {
    format!("finetune --model bert {TINY} --output {output} {LONG} {more}")
}

fn send(signal: &str, child: &Child) {
    let id = child.id().to_string();
    let sent = Command::new("kill").args([signal, &id]).status().unwrap();
    assert!(sent.success());
}

/// Ends with what a process printed, of a run that it was part of.
fn ended(child: Child) -> (Option<i32>, String, String) {
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

fn adapter(scene: &Scene, output: &str) -> Vec<u8> {
    scene.read(&format!("{output}/adapter_model.safetensors"))
}

/// Two runs made the same steps, to the last bit, and left the same.
fn assert_same(scene: &Scene, found: &str, expected: &str) {
    assert_eq!(scene.losses(found), scene.losses(expected));
    assert!(adapter(scene, found) == adapter(scene, expected));
    let epochs = |output: &str| scene.json(&format!("{output}/metrics.json"))["epochs"].clone();
    assert_eq!(epochs(found), epochs(expected));
}

/// Copies the files of a folder.
fn copy(scene: &Scene, from: &str, to: &str) {
    for entry in fs::read_dir(scene.path(from)).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if scene.path(from).join(&name).is_file() {
            scene.write(
                &format!("{to}/{name}"),
                scene.read(&format!("{from}/{name}")),
            );
        }
    }
}

/// The files below a folder, with what is in them.
fn contents(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(contents(&path)),
            false => found.push((path.display().to_string(), fs::read(&path).unwrap())),
        }
    }
    found.sort();
    found
}

#[test]
fn a_killed_run_goes_on_as_if_nothing_had_happened() {
    let scene = Scene::new();
    scene.finetune("whole", &format!("{LONG} --checkpoint-every 3"));
    let args = long("killed", "--checkpoint-every 3");
    let mut child = start(&scene, "killed", scene.command(&args));
    child.kill().unwrap();
    assert!(!child.wait().unwrap().success());
    let before = scene.losses("killed").len();
    assert!((8..600).contains(&before), "killed after {before} steps");
    assert!(!scene.path("killed/metrics.json").exists());

    scene.refused(
        &args,
        &["killed already holds a run", "--resume", "--force"],
    );
    let args = format!("{args} --resume");
    let run = scene.read("killed/run.json");
    for (other, said) in [
        (
            format!("{args} --alpha 2"),
            "`adapters.alpha` was not set and is 2.0 now",
        ),
        (
            args.replace("--lr 5e-3", "--lr 4e-3"),
            "`lr` was 0.005 and is 0.004 now",
        ),
        (
            args.replace("--rank 4", "--rank 3"),
            "`adapters.rank` was 4 and is 3 now",
        ),
    ] {
        scene.refused(&other, &[said, "killed", "another folder"]);
    }
    assert!(
        scene.read("killed/run.json") == run,
        "a refused resume changed something"
    );

    let ran = scene.run(&args);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stderr.contains("resumed at step "), "{}", ran.stderr);
    assert_same(&scene, "killed", "whole");

    // A finished run that is resumed is still finished.
    scene.ok(&args);
    assert_same(&scene, "killed", "whole");
}

#[test]
fn a_run_goes_on_without_its_flags_and_with_more_epochs() {
    let scene = Scene::new();
    let flags = "--schedule constant --warmup 0 --seed 5 --dropout 0.1";
    scene.finetune("whole", &format!("{flags} --epochs 4"));
    scene.finetune("parts", &format!("{flags} --epochs 3 --max-steps 8"));
    assert_eq!(scene.losses("parts").len(), 8);
    // Within an epoch, then to the epochs' end, then beyond it; the flags are those of run.json.
    for (more, steps) in [
        ("--max-steps 11", 11),
        ("--max-steps 18", 18),
        ("--max-steps 99 --epochs 4", 24),
    ] {
        scene.ok(&format!("finetune --output parts --resume {more}"));
        assert_eq!(scene.losses("parts").len(), steps);
    }
    assert_same(&scene, "parts", "whole");
    scene.finetune("one", "--threads 1 --epochs 1");
    scene.ok("finetune --output one --resume --epochs 2");
    assert_eq!(scene.json("one/run.json")["threads"], 1);
    scene.ok("finetune --output one --resume --epochs 2 --threads 2");
    assert_eq!(scene.json("one/run.json")["threads"], 2);
    let settings = &scene.json("parts/run.json")["settings"];
    assert_eq!(
        (&settings["epochs"], &settings["seed"]),
        (&4.into(), &5.into())
    );
    let record = scene.read("parts/run.json");
    scene.refused(
        "finetune --output parts --resume --epochs 2",
        &["`epochs` is 2", "24 steps", "at least as many"],
    );

    assert!(scene.read("parts/run.json") == record);

    // What a run left is a configuration for another.
    scene.ok("finetune --config whole/run.json --output again");
    assert_same(&scene, "again", "whole");
    scene.ok("finetune --config whole/run.json --output other --lr 1e-3");
    assert_ne!(scene.losses("other"), scene.losses("whole"));
    assert_eq!(scene.json("other/run.json")["settings"]["lr"], 1e-3);

    // An epoch that is gone cannot be left.
    let resume = "finetune --output late --resume --epochs";
    scene.finetune("late", "--epochs 2 --keep last");
    scene.refused(
        &format!("{resume} 3 --keep best"),
        &["`keep` is best", "epoch", "--keep last"],
    );
    scene.ok(&format!("{resume} 3"));
    assert_eq!(scene.json("late/metrics.json")["kept"], 3);
    scene.finetune("early", "--epochs 2 --keep best");
    scene.ok(&resume
        .replace("late", "early")
        .replace("--epochs", "--epochs 3 --keep last"));
    assert_same(&scene, "early", "late");

    // Where there is no run to go on with, one begins; but not among other files.
    scene.finetune("new", "--epochs 1 --resume");
    assert_eq!(scene.losses("new").len(), 6);
    scene.write("notes/notes.txt", "mine");
    scene.refused(
        &format!("finetune --model bert {TINY} --output notes --resume"),
        &["notes is not empty", "notes.txt"],
    );
}

#[test]
fn a_run_goes_on_only_with_the_files_that_it_began_with() {
    let scene = Scene::new();
    scene.finetune("out", "--epochs 2 --max-steps 7");
    let resume = "finetune --output out --resume --max-steps 12";
    let change = |file: &str, from: &str, to: &str| {
        let text = String::from_utf8(scene.read(file)).unwrap();
        let changed = text.replacen(from, to, 1);
        assert_ne!(changed, text);
        scene.write(file, changed);
        text
    };
    for (file, from, to, said) in [
        (
            "bert/config.json",
            "\"hidden_act\": \"gelu\"",
            "\"hidden_act\": \"relu\"",
            "config.json of the model",
        ),
        (
            "bert/tokenizer.json",
            "[UNK]",
            "[unk]",
            "tokenizer.json of the model",
        ),
        ("cola/train.tsv", "the", "a", "train.tsv of the data"),
        ("cola/dev.tsv", "the", "a", "dev.tsv of the data"),
    ] {
        let text = change(file, from, to);
        scene.refused(resume, &[said, "is another"]);
        scene.write(file, text);
    }
    let mut weights = scene.read("bert/model.safetensors");
    let last = weights.len() - 3;
    weights[last] ^= 1;
    let whole = scene.read("bert/model.safetensors");
    scene.write("bert/model.safetensors", weights);
    scene.refused(resume, &["the model has other weights"]);
    scene.write("bert/model.safetensors", whole);

    // The same files elsewhere are the same.
    fs::rename(scene.path("bert"), scene.path("moved")).unwrap();
    scene.refused(resume, &["bert"]);
    scene.ok(&format!("{resume} --model moved"));
    scene.ok("finetune --model moved --config out/run.json --output whole");
    assert_same(&scene, "out", "whole");
}

#[test]
fn a_damaged_checkpoint_makes_room_for_the_one_before_it() {
    let scene = Scene::new();
    scene.finetune("whole", "--epochs 3 --checkpoint-every 4");
    scene.finetune("stopped", "--epochs 3 --checkpoint-every 4 --max-steps 11");
    let [last, before] = ["checkpoint.safetensors", "checkpoint.previous.safetensors"];
    let resume = |output: &str| format!("finetune --output {output} --resume --max-steps 18");
    let damage = |output: &str, file: &str, at: usize| {
        let file = format!("{output}/{file}");
        let mut bytes = scene.read(&file);
        let at = bytes.len() * at / 10;
        bytes[at] ^= 16;
        scene.write(&file, bytes);
    };
    for at in [1, 5, 9] {
        let output = format!("last-{at}");
        copy(&scene, "stopped", &output);
        damage(&output, last, at);
        let ran = scene.run(&resume(&output));
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        let said = [
            &format!("{output}/{last}"),
            "damaged",
            "going on from the older one, of step 8",
        ];
        for part in said {
            assert!(ran.stderr.contains(part), "{}", ran.stderr);
        }
        assert!(ran.stderr.contains("resumed at step 8\n"), "{}", ran.stderr);
        assert_same(&scene, &output, "whole");
    }
    // One that is not needed is said as well.
    copy(&scene, "stopped", "before");
    damage("before", before, 6);
    let ran = scene.run(&resume("before"));
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(
        ran.stderr.contains("damaged") && ran.stderr.contains(before),
        "{}",
        ran.stderr
    );
    assert_same(&scene, "before", "whole");

    copy(&scene, "stopped", "both");
    damage("both", last, 7);
    damage("both", before, 3);
    scene.refused(
        &resume("both"),
        &["both/checkpoint.safetensors", "damaged", "--force"],
    );
    let edited = String::from_utf8(scene.read("both/run.json")).unwrap();
    let edited = edited.replace("\"lr\": 0.005", "\"lr\": 0.006");
    scene.write("both/run.json", edited);
    scene.refused(
        &resume("both"),
        &["both/run.json", "changed since", "fingerprint"],
    );
    scene.write("both/run.json", "{}");
    scene.refused(
        &resume("both"),
        &["both/run.json", "not the record of a run"],
    );
    let metrics = scene.read("stopped/metrics.json");
    for kept in [0, 4, 1000] {
        let bytes = scene.read("stopped/checkpoint.safetensors");
        scene.write("stopped/checkpoint.safetensors", &bytes[..kept]);
        scene.write("stopped/checkpoint.previous.safetensors", "");
        scene.refused(
            &resume("stopped"),
            &["damaged", "no whole safetensors file"],
        );
        scene.write("stopped/checkpoint.safetensors", bytes);
    }
    assert!(scene.read("stopped/metrics.json") == metrics);
}

#[test]
fn signals_save_and_say_which_they_were() {
    let scene = Scene::new();
    scene.finetune("whole", LONG);
    for (signal, status) in [("-INT", 130), ("-TERM", 143), ("-HUP", 129)] {
        let output = format!("out{signal}");
        let child = start(&scene, &output, scene.command(&long(&output, "")));
        send(signal, &child);
        let (code, printed, said) = ended(child);
        assert_eq!(code, Some(status), "{said}");
        assert!(
            printed.contains("stopped; go on with --resume"),
            "{printed}"
        );
        assert!(said.contains("stopping after this step"), "{said}");
        assert_eq!(
            scene.json(&format!("{output}/metrics.json"))["finished"],
            false
        );
        let made = scene.losses(&output).len();
        assert!(made < 600);
        let ran = scene.run(&format!("finetune --output {output} --resume"));
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        let resumed = format!("resumed at step {made}\n");
        assert!(ran.stderr.contains(&resumed), "{}", ran.stderr);
        assert_same(&scene, &output, "whole");
    }
    // As `nohup` starts it: a terminal that is closed is nothing to it.
    let mut command = Command::new("sh");
    let own = scene.command(&long("nohup", ""));
    command
        .args(["-c", "trap '' HUP; exec \"$0\" \"$@\""])
        .arg(own.get_program())
        .args(own.get_args())
        .current_dir(scene.path(""));
    let child = start(&scene, "nohup", command);
    send("-HUP", &child);
    assert_eq!(ended(child).0, Some(0));
    assert_same(&scene, "nohup", "whole");
}

#[test]
fn one_run_at_a_time_has_a_folder() {
    let scene = Scene::new();
    let args = long("out", "");
    let first = start(&scene, "out", scene.command(&args));
    for more in ["", "--resume", "--force"] {
        scene.refused(&format!("{args} {more}"), &["out is in use", "another"]);
    }
    let (code, _, said) = ended(first);
    assert_eq!(code, Some(0), "{said}");
    scene.finetune("whole", LONG);
    assert_same(&scene, "out", "whole");
    assert!(!scene.path("out/.ailora.lock").exists());

    // What a killed process had is free.
    let mut killed = start(&scene, "killed", scene.command(&long("killed", "")));
    killed.kill().unwrap();
    assert_eq!(killed.wait().unwrap().signal(), Some(9));
    scene.write("killed/.ailora-4711.part", "half of a file");
    scene.ok(&long("killed", "--resume"));
    assert_same(&scene, "killed", "whole");
    assert!(!scene.path("killed/.ailora-4711.part").exists());
}

#[test]
fn folders_that_hold_something_are_left_alone() {
    let scene = Scene::new();
    scene.finetune("out", "--epochs 1");
    let base = "--model bert --task cola";
    let commands = [
        format!("finetune --model bert {TINY} --epochs 1"),
        format!("finetune --model bert {TINY} --epochs 1 --method full"),
        format!("merge {base} --adapter out"),
        format!("export {base} --adapter out"),
    ];
    for (i, command) in commands.iter().enumerate() {
        let folder = format!("mine-{i}");
        for name in ["notes.txt", "config.json", "adapter_config.json"] {
            scene.write(&format!("{folder}/{name}"), format!("my {name}"));
        }
        let before = contents(&scene.path(&folder));
        scene.refused(
            &format!("{command} --output {folder}"),
            &["is not empty", "adapter_config.json", "--force"],
        );
        assert!(contents(&scene.path(&folder)) == before);
        scene.ok(&format!("{command} --output {folder} --force"));
        // What the command writes is new, what it does not write is as it was.
        let is_model = i == 1 || i == 2;
        let own = ["config.json", "adapter_config.json"];
        let (replaced, kept) = if is_model {
            (own[0], own[1])
        } else {
            (own[1], own[0])
        };
        let now = |name: &str| scene.read(&format!("{folder}/{name}"));
        assert_ne!(
            now(replaced),
            format!("my {replaced}").as_bytes(),
            "{command}"
        );
        assert_eq!(now(kept), format!("my {kept}").as_bytes(), "{command}");
        assert_eq!(now("notes.txt"), b"my notes.txt");

        // Nor onto the model, in no spelling, and not onto the adapter that is read.
        symlink("bert", scene.path(&format!("link-{i}"))).unwrap();
        let before = contents(&scene.path("bert"));
        for spelled in ["bert", "./bert/", "out/../bert", &format!("link-{i}")] {
            for force in ["", "--force"] {
                scene.refused(
                    &format!("{command} --output {spelled} {force}"),
                    &[spelled, "holds what is read"],
                );
            }
        }
        assert!(contents(&scene.path("bert")) == before, "{command}");
        if i >= 2 {
            let before = contents(&scene.path("out"));
            scene.refused(
                &format!("{command} --output out --force"),
                &["holds what is read"],
            );
            assert!(contents(&scene.path("out")) == before, "{command}");
        }
    }
    // A run makes room for another with all that it left.
    let first = scene.losses("out");
    scene.finetune("out", "--epochs 2 --seed 9 --force");
    assert_eq!(scene.losses("out").len(), 12);
    assert_ne!(scene.losses("out")[..6], first);
    assert_eq!(
        fs::read_dir(scene.path("out/tensorboard")).unwrap().count(),
        1
    );
}

#[test]
fn files_are_kept_and_streams_are_written_to() {
    let scene = Scene::new();
    let base = "--model bert --task cola";
    let commands = [
        (
            "rows.jsonl",
            format!("predict {base} --data cola/dev.tsv --output"),
        ),
        ("site.dot", format!("explain {base} --length 16 --dot")),
        ("site.svg", format!("explain {base} --length 16 --svg")),
        ("plot.svg", "spectrum --model bert --plot".to_owned()),
    ];
    for (name, command) in commands {
        scene.ok(&format!("{command} fresh-{name}"));
        let expected = scene.read(&format!("fresh-{name}"));
        scene.write(name, "mine");
        symlink(name, scene.path(&format!("link-{name}"))).unwrap();
        for place in [name, &format!("link-{name}")] {
            scene.refused(
                &format!("{command} {place}"),
                &[place, "exists already", "--force"],
            );
            assert_eq!(scene.read(name), b"mine", "{command}");
        }
        scene.ok(&format!("{command} link-{name} --force"));
        assert!(scene.path(&format!("link-{name}")).is_symlink());
        assert!(scene.read(name) == expected, "{command}");

        let fifo = format!("fifo-{name}");
        let made = Command::new("mkfifo").arg(scene.path(&fifo)).status();
        assert!(made.unwrap().success());
        let mut child = scene.command(&format!("{command} {fifo}")).spawn().unwrap();
        let mut got = Vec::new();
        File::open(scene.path(&fifo))
            .unwrap()
            .read_to_end(&mut got)
            .unwrap();
        assert!(child.wait().unwrap().success());
        assert!(got == expected, "{command}");

        // Text for people is not among the bytes.
        assert!(
            scene.ok(&format!("{command} -")).as_bytes() == expected,
            "{command}"
        );
        scene.refused(&format!("{command} cola --force"), &["cola is a folder"]);
        // Nor is anything of the model replaced.
        let model = if name == "plot.svg" {
            "bert/plot.svg"
        } else {
            "bert/config.json"
        };
        scene.write("bert/plot.svg", "mine");
        let before = scene.read(model);
        scene.refused(
            &format!("{command} {model} --force"),
            &[model, "holds what is read"],
        );
        assert!(scene.read(model) == before);
    }
}

#[test]
fn modes_are_what_the_umask_leaves() {
    let scene = Scene::new();
    let base = "--model bert --task cola";
    for (mask, file, folder) in [("027", 0o640, 0o750), ("002", 0o664, 0o775)] {
        let commands = [
            format!("finetune --model bert {TINY} --epochs 1 --output {mask}/out"),
            format!("merge {base} --adapter {mask}/out --output {mask}/merged"),
            format!(
                "predict {base} --adapter {mask}/out --data cola/dev.tsv --output {mask}/new/rows.jsonl"
            ),
        ];
        for command in commands {
            let own = scene.command(&command);
            let status = Command::new("sh")
                .args(["-c", &format!("umask {mask}; exec \"$0\" \"$@\"")])
                .arg(own.get_program())
                .args(own.get_args())
                .current_dir(scene.path(""))
                .stderr(Stdio::null())
                .stdout(Stdio::null())
                .status();
            assert!(status.unwrap().success(), "{command}");
        }
        let mut folders = vec![scene.path(mask)];
        let mut files = 0;
        while let Some(next) = folders.pop() {
            let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
            assert_eq!(mode(&next), folder, "{}", next.display());
            for entry in fs::read_dir(next).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    assert_eq!(mode(&path), file, "{}", path.display());
                    files += 1;
                }
            }
        }
        assert!(files > 10);
    }
}

#[test]
fn readers_that_go_away_are_no_errors() {
    let scene = Scene::new();
    scene.finetune("out", "--epochs 1");
    let base = "--model bert --task cola";
    for command in [
        format!("explain {base} --length 16"),
        format!("plan {base} --program --length 16"),
        "spectrum --model bert".to_owned(),
        format!("evaluate {base} --data cola --adapter out"),
        format!("merge {base} --adapter out --output merged"),
        format!("finetune --model bert {TINY} --epochs 1 --output again"),
        "--help".to_owned(),
        "predict --help".to_owned(),
        format!("predict {base} --data cola/dev.tsv --output -"),
    ] {
        // Standard output is a pipe that nobody reads; in the second round all is.
        for both in [false, true] {
            let command = command.replace(" again", if both { " once" } else { " again" });
            let command = command.replace(" merged", if both { " m" } else { " merged" });
            let mut process = scene.command(&command);
            process.stdout(closed());
            process.stderr(if both { closed() } else { Stdio::piped() });
            let output = process.spawn().unwrap().wait_with_output().unwrap();
            let said = String::from_utf8(output.stderr).unwrap();
            assert!(!said.contains("panicked"), "{command}: {said}");
            let code = output.status.code();
            let said = said.contains("standard output");
            assert!(
                code == Some(0) || code == Some(1) && (said || both),
                "{command}: {code:?}"
            );
        }
    }
    // A full disk is an error.
    let mut process = scene.command("spectrum --model bert");
    process.stdout(File::options().write(true).open("/dev/full").unwrap());
    let output = process.stderr(Stdio::piped()).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("cannot write to standard output"), "{said}");
    assert!(scene.path("again/metrics.json").exists() && scene.path("once/metrics.json").exists());
}

/// The writing end of a pipe whose reader is gone.
fn closed() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

#[test]
fn progress_comes_line_by_line_where_there_is_no_terminal() {
    let scene = Scene::new();
    // Steps of some milliseconds, so that the run takes seconds.
    let args = "finetune --task svamp --output out --rows 320 --batch-size 16 --epochs 4 --max-length 64 --threads 1";
    let mut child = scene
        .command(args)
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut seen = Vec::new();
    for line in lines.map(Result::unwrap) {
        assert!(!line.contains('\r') && !line.contains('\u{1b}'), "{line:?}");
        if line.starts_with("step ") {
            assert!(
                line.contains(" of 80 (") && line.contains("loss "),
                "{line}"
            );
            // It is read before the run ends.
            seen.push(scene.losses("out").len());
        }
    }
    assert!(child.wait().unwrap().success());
    let during = seen.iter().filter(|&&steps| steps < 80).count();
    assert!(during >= 3, "{seen:?}");
    assert_eq!(
        scene.json("out/metrics.json")["finished"],
        Value::Bool(true)
    );
}
