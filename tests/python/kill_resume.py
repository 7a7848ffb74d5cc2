#!/usr/bin/env python3
"""Kills training runs at random moments, resumes them, and compares them with an uninterrupted run.

    python3 kill_resume.py --ailora target/release/ailora --runs 50 --seed 0 -- \\
        --model DIR --task cola --data DIR --method ailora --epochs 1

What follows `--` goes to `ailora finetune` as it is; --output and --resume are added here. Each run is killed
(SIGKILL) at a moment drawn uniformly from the uninterrupted run's duration and started again with --resume; three
in ten are killed once more after that. At its end adapter_model.safetensors must equal the uninterrupted run's byte
for byte, and train.jsonl must hold the same (step, loss) rows, each step once. A panic, a resume that fails or one
that hangs is a failure. Prints a JSON summary; exits with 1 if any run failed.
"""
import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SECOND_KILL = 0.3


class Failure(Exception):
    """One run did not end as the uninterrupted one did."""


def run(command, output, resume=False, kill_after=None, timeout=None):
    """Runs the command; after kill_after seconds kills it. Whether it ended by itself (then with status 0)."""
    command = [*command, "--output", str(output), *(["--resume"] if resume else [])]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        try:
            process.wait(timeout if kill_after is None else kill_after)
            ended = True
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            ended = False
        log.seek(0)
        text = log.read().decode(errors="replace")
    what = "resumed run" if resume else "run"
    if "panicked" in text:
        raise Failure(f"{what} panicked:\n{text}")
    if ended and process.returncode != 0:
        raise Failure(f"{what} ended with status {process.returncode}:\n{text}")
    if not ended and kill_after is None:
        raise Failure(f"{what} still ran after {timeout:.0f} s:\n{text}")
    return ended


def losses(output):
    """The (step, loss) rows of a run's log, as the very digits that were written."""
    rows = []
    for number, line in enumerate((output / "train.jsonl").read_text(errors="replace").splitlines(), 1):
        try:
            row = json.loads(line, parse_float=str)
            rows.append((int(row["step"]), row["loss"]))
        except (ValueError, KeyError, TypeError) as error:
            raise Failure(f"train.jsonl, line {number}: not a row with step and loss ({error!r}): {line[:200]}")
    return rows


def result(output):
    for name in ("adapter_model.safetensors", "train.jsonl"):
        if not (output / name).is_file():
            raise Failure(f"a run that ended well left no {name}")
    rows = losses(output)
    steps = [step for step, _ in rows]
    if not steps:
        raise Failure("train.jsonl is empty")
    if steps != list(range(steps[0], steps[0] + len(steps))):
        raise Failure(f"train.jsonl: steps are not consecutive, each once: {steps}")
    return (output / "adapter_model.safetensors").read_bytes(), rows


def compare(got, expected):
    (adapter, rows), (expected_adapter, expected_rows) = got, expected
    if rows != expected_rows:
        different = [(a, b) for a, b in zip(rows, expected_rows) if a != b]
        raise Failure(
            f"train.jsonl has {len(rows)} rows, expected {len(expected_rows)}; "
            f"{len(different)} differ, first (got, expected): {different[:1]}"
        )
    if adapter != expected_adapter:
        raise Failure("the losses are equal but adapter_model.safetensors differs")


def interrupted(command, output, moments, timeout):
    """Starts and kills at each of the moments, then lets the run end. How many kills happened in time."""
    for kills, moment in enumerate(moments):
        if run(command, output, resume=kills > 0, kill_after=moment):
            return kills
    run(command, output, resume=True, timeout=timeout)
    return len(moments)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ailora", required=True, help="the ailora binary")
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("finetune", nargs="+", help="arguments of ailora finetune")
    args = parser.parse_args()
    command = [args.ailora, "finetune", *args.finetune]
    rng = random.Random(args.seed)
    kills, failures = [], []
    with tempfile.TemporaryDirectory() as folder:
        reference = Path(folder, "reference")
        start = time.monotonic()
        try:
            run(command, reference)
            duration = time.monotonic() - start
            expected = result(reference)
        except (Failure, OSError) as failure:
            sys.exit(f"kill_resume.py: the uninterrupted run: {failure}")
        for index in range(args.runs):
            count = 2 if rng.random() < SECOND_KILL else 1
            moments = [rng.uniform(0, duration) for _ in range(count)]
            with tempfile.TemporaryDirectory(dir=folder) as parent:
                output = Path(parent, "run")
                try:
                    kills.append(interrupted(command, output, moments, timeout=60 + 10 * duration))
                    compare(result(output), expected)
                except Failure as failure:
                    at = ", ".join(f"{m:.3f}" for m in moments)
                    failures.append(index)
                    print(f"run {index}, kills due after {at} of {duration:.3f} s: {failure}", file=sys.stderr)
    summary = dict(
        runs=args.runs,
        seed=args.seed,
        steps=len(expected[1]),
        duration_s=round(duration, 3),
        ended_before_kill=kills.count(0),
        killed_once=kills.count(1),
        killed_twice=kills.count(2),
        failed=failures,
    )
    print(json.dumps(summary))
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
