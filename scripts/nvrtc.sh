#!/usr/bin/env bash
# Puts CUDA's run-time compiler into a cache folder and prints that folder: what compiling kernels
# takes on a machine without a device.
#
#     export AILORA_CUDA_LIBRARIES=$(scripts/nvrtc.sh [CACHE_DIR])      default: .cache/nvrtc
set -euo pipefail
cache=${1:-$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/.cache/nvrtc}
python=${PYTHON:-python3}
version=13.0.88

if ! [ -e "$cache/libnvrtc.so.13" ]; then
    mkdir -p "$(dirname "$cache")"
    # Beside the cache, so that the last step is a rename within one file system.
    work=$(mktemp -d "$cache.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    echo "fetching nvidia-cuda-nvrtc $version with pip ..." >&2
    "$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
        --dest "$work" "nvidia-cuda-nvrtc==$version" >&2
    "$python" -m zipfile -e "$work"/*.whl "$work/wheel"
    "$python" -c 'import os, sys; os.rename(*sys.argv[1:])' "$work/wheel/nvidia/cu13/lib" "$cache" \
        2>/dev/null || [ -e "$cache/libnvrtc.so.13" ]
fi
echo "$cache"
