#!/usr/bin/env bash
# The runs behind docs/results.md: five methods, three seeds, three tasks on the real MiniLM.
#   scripts/glue.sh DATA OUT [JOBS]     DATA holds CoLA, RTE and SST-2 in GLUE's TSV format
# Runs JOBS at a time, a thread each, goes on where it was stopped, and prints a JSON line a run.
set -euo pipefail
cd "$(dirname "$0")/.."
data=$(realpath "$1") out=$(mkdir -p "$2" && realpath "$2") jobs=${3:-$(nproc)}
model=$(scripts/minilm.sh)
cargo build --release --quiet
export model data out
one() {
    local folder rows=()
    case $1 in
        cola) folder=CoLA ;;
        rte) folder=RTE ;;
        sst2) folder=SST-2 rows=(--rows 10000) ;;
    esac
    target/release/ailora --threads 1 finetune --model "$model" --task "$1" --data "$data/$folder" \
        --method "$2" --rank 8 --epochs 3 --batch-size 32 --lr 5e-4 --seed "$3" "${rows[@]}" \
        --output "$out/$1-$2-$3" --resume >"$out/$1-$2-$3.log" 2>&1
}
export -f one
for task in rte sst2 cola; do
    for seed in 0 1 2; do
        for method in ailora lora pissa milora reailora; do echo $task $method $seed; done
    done
done | xargs -P "$jobs" -L 1 bash -c 'one "$@"' one
python3 scripts/glue_table.py collect "$out"
