#!/usr/bin/env bash
# Fetches the real MiniLM (a 6-layer BERT, 90 MB) into .cache and fine-tunes it with AILoRA on the
# bundled SVAMP problems: which arithmetic operation does a word problem ask for?
# Arguments are passed on to `ailora finetune`.
set -euo pipefail
cd "$(dirname "$0")/.."
model=$(scripts/minilm.sh)
output=.cache/first-run
rm -rf "$output"
cargo run --release --quiet -- finetune --model "$model" --task svamp --data models/data/svamp \
    --method ailora --rank 8 --epochs 3 --lr 1e-3 --output "$output" "$@"
cargo run --release --quiet -- predict --model "$model" --adapter "$output" --task svamp \
    --data models/data/svamp/SVAMP.json --output "$output/predictions.jsonl"
head -n 3 "$output/predictions.jsonl"
