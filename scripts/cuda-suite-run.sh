#!/usr/bin/env bash
# Runs the suite on the CUDA device, in the precisions that are named or in all.
set -uo pipefail
cd "$(dirname "$0")"
root=$PWD failed=0
export AILORA_DEVICE=${AILORA_DEVICE:-cuda} AILORA_CACHE=${AILORA_CACHE:-$root/cache}
[ $# -gt 0 ] || set -- f32 tf32 bf16
for precision in "$@"; do
    export AILORA_PRECISION=$precision
    for test in ailora-runtime/accumulate ailora-runtime/backend ailora-runtime/fused ailora-runtime/ranks ailora-runtime/steps models/parity models/fusion models/generate models/methods models/every_method models/dora \
        models/bottleneck models/switch ./peft; do
        echo "== $precision $test"
        CARGO_MANIFEST_DIR=$root/$(dirname "$test") "bin/$(basename "$test")" --test-threads 1 || failed=1
    done
done
echo "== several threads"
bin/ailora_runtime cuda::execute || failed=1
echo "== errors"
bin/ailora_runtime cuda::device || failed=1
exit $failed
