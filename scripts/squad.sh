#!/usr/bin/env bash
# SQuAD 1.1 and 2.0 on the real MiniLM by this program and by transformers with PEFT, three seeds each.
#   scripts/squad.sh AILORA MODEL DATA OUT [DEVICE]
# AILORA is the built command and MODEL the folder of scripts/minilm.sh. DATA holds dev-v1.1.json, dev-v2.0.json and the
# training files that TRAIN1 and TRAIN2 name. Products are in TF32 on a device, on both sides. Needs Python with
# torch, transformers and peft, and no network. ROWS questions and STEPS steps make it a trial.
set -euo pipefail
tests=$(cd "$(dirname "${BASH_SOURCE[0]}")/../tests/python" && pwd)
ailora=$1 model=$2 data=$3 out=$4 device=${5:-cuda}
train1=${TRAIN1:-train-v1.1.json} train2=${TRAIN2:-train-v2.0.json}
mkdir -p "$out"
precision=f32
[[ $device == cpu ]] || precision=tf32
ours=() theirs=()
if [[ -n ${ROWS:-} ]]; then ours+=(--rows "$ROWS") theirs+=(--rows "$ROWS"); fi
if [[ -n ${STEPS:-} ]]; then ours+=(--max-steps "$STEPS") theirs+=(--max-steps "$STEPS"); fi
for version in 1 2; do
    case $version in
        1) train=$data/$train1 dev=$data/dev-v1.1.json ;;
        2) train=$data/$train2 dev=$data/dev-v2.0.json ;;
    esac
    for seed in 0 1 2; do
        "$ailora" finetune --model "$model" --format squad --train "$train" --valid "$dev" \
            --method lora --rank 8 --alpha 16 --epochs 2 --batch-size 32 --lr 1e-3 --seed "$seed" --keep last \
            --device "$device" --precision "$precision" "${ours[@]}" --output "$out/squad$version-$seed" --force
    done
    rm -f "$out/peft$version.jsonl"
    python3 "$tests/squad_peft.py" "$model" "$train" "$dev" "$out/peft$version.jsonl" "${theirs[@]}"
done
python3 - "$out" <<'END'
import json, sys
from pathlib import Path
from statistics import mean, stdev

out = Path(sys.argv[1])
lines = lambda path: [json.loads(line) for line in path.read_text().splitlines()]
for version in "12":
    rows = {
        "ailora": [lines(out / f"squad{version}-{seed}" / "evaluations.jsonl")[-1]["metrics"] for seed in range(3)],
        "peft": lines(out / f"peft{version}.jsonl"),
    }
    for who, found in rows.items():
        for name in ["f1", "exact"]:
            values = [row.get(name, row.get("exact_match")) for row in found]
            print(f"squad{version} {who} {name}: {mean(values):.2f} +- {stdev(values):.2f}  ({', '.join(f'{v:.2f}' for v in values)})")
END
