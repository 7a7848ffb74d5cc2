"""Rows a second that a model is trained on, from memory and from files that are streamed, in turns.

    python3 scripts/data-rates.py AILORA MODEL FILE ... [-- FLAGS]

AILORA is the command, FILEs hold the same rows; the first is read into memory too. FLAGS go to `finetune`, such as
`--device cuda --precision bf16`. The rate is that of the steps from the 64th on, to which the log's growth is
watched; the whole run's time is given beside it.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def run(command, name, file, stream, flags):
    out = Path(tempfile.mkdtemp())
    arguments = ["--train", file, "--stream", stream, "--hold-out", "0", "--epochs", "1", "--output", str(out / "run")]
    start = time.time()
    process = subprocess.Popen([*command, *arguments, *flags], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    first = last = None
    log = out / "run" / "train.jsonl"
    while process.poll() is None:
        steps = log.read_bytes().count(b"\n") if log.exists() else 0
        if steps >= 64 and (last is None or steps > last[0]):
            last = (steps, time.time())
            first = first or last
        time.sleep(0.005)
    whole = time.time() - start
    if process.returncode or first is None or first == last:
        sys.exit(f"{name}: {process.stderr.read().decode()[-2000:]}")
    rows = 32 * (last[0] - first[0]) / (last[1] - first[1])
    print(json.dumps({"run": name, "rows_per_second": round(rows, 1), "whole_seconds": round(whole, 2)}), flush=True)
    shutil.rmtree(out)


def main():
    arguments = sys.argv[1:]
    if len(arguments) < 3:
        sys.exit(__doc__)
    split = arguments.index("--") if "--" in arguments else len(arguments)
    (ailora, model, *files), flags = arguments[:split], arguments[split + 1 :]
    command = [ailora, "finetune", "--model", model, "--batch-size", "32", "--max-length", "128"]
    for _ in range(2):
        run(command, "memory", files[0], "false", flags)
        for file in files:
            run(command, file, file, "true", flags)


if __name__ == "__main__":
    main()
