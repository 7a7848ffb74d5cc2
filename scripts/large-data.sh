#!/usr/bin/env bash
# Trains some steps on a file of 5 GB, and prints the most memory that took:
#
#     scripts/large-data.sh FOLDER [BYTES]
#
# The folder gets the file and the run. Needs Python 3, and a built target/release/ailora.
set -euo pipefail
[ $# -ge 1 ] || { sed -n '2,6p' "$0" >&2; exit 2; }
ailora=$(cd "$(dirname "$0")/.." && pwd)/target/release/ailora
mkdir -p "$1"
cd "$1"
python3 - "${2:-5000000000}" <<'PYTHON'
import json, random, sys
random.seed(0)
words = "the a cat dog sat saw ran him her she he mat on under old and".split()
def row(i):
    text = " ".join(random.choices(words, k=random.randint(20, 200)))
    return json.dumps({"text": text, "label": "yes" if text.count("cat") > 6 else "no", "id": i})
block = ("\n".join(row(i) for i in range(20000)) + "\n").encode()
with open("rows.jsonl", "wb") as file:
    written = 0
    while written < int(sys.argv[1]):
        written += file.write(block)
PYTHON
python3 - "$ailora" <<'PYTHON'
import resource, subprocess, sys, time
start = time.time()
command = [sys.argv[1], "finetune", "--train", "rows.jsonl", "--label", "label", "--epochs", "1",
           "--max-steps", "20", "--output", "out", "--force"]
subprocess.run(command, check=True)
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
print(f"peak memory {peak:.0f} MiB, {time.time() - start:.0f} s")
PYTHON
