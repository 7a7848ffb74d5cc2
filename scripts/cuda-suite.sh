#!/usr/bin/env bash
# Builds the tests and benches that run on a CUDA device, and the command, into a folder that a
# machine without Rust can run:
#
#     scripts/cuda-suite.sh FOLDER       then, where the device is:   FOLDER/run.sh [PRECISION ...]
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# = 1 ] || { sed -n '2,5p' "$0" >&2; exit 2; }
folder=$1
mkdir -p "$folder/bin" "$folder/models" "$folder/ailora-runtime" "$folder/tests"

# Prints the executables of a build, by name: of tests, the ones that run there.
built() {
    cargo "$@" --message-format=json | python3 -c '
import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if not message.get("executable"):
        continue
    name = message["target"]["name"]
    # Two packages have tests of these names.
    if name in ("generate", "dora") and not message["manifest_path"].endswith("models/Cargo.toml"):
        continue
    print(name, message["executable"])'
}
# One selection of packages, as another one builds the dependencies again with other features.
{
    built test --release --no-run --workspace --lib --test accumulate --test backend --test fused --test ranks --test steps \
        --test parity --test fusion --test generate --test peft --test methods --test every_method \
        --test dora --test bottleneck --test switch
    built bench --no-run --workspace --bench device
    # Tests have their names.
    built bench --no-run --workspace --bench fusion --bench switch | sed 's/^[a-z]*/&-bench/'
    built build --release --workspace --bin ailora --example svd_time
} | while read -r name executable; do
    # The models' and the runtime's tests have names of their own.
    strip -o "$folder/bin/$name" "$executable"
done
rm -rf "$folder/tests/fixtures"
cp -r tests/fixtures "$folder/tests/"
cp scripts/cuda-suite-run.sh "$folder/run.sh"
