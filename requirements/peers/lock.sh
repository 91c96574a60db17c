#!/usr/bin/env bash
# Compile the locks of the benchmark's peers, each for an environment of its own under var/peers.
set -euo pipefail
cd "$(dirname "$0")/../.."
for peer in fastapi bentoml kserve litserve; do
    # XGBoost's wheel asks for NVIDIA's collective library (345 MB), which a CPU never loads: no lock names it.
    "${UV:-uv}" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate \
        --no-header --no-emit-package nvidia-nccl-cu12 --no-emit-package nvidia-nccl-cu13 ${UPGRADE---upgrade} \
        --output-file "requirements/peers/$peer.txt" "requirements/peers/$peer.in" >/dev/null
done
if grep -nE '://|^nvidia-nccl' requirements/peers/*.txt; then
    echo "a lock names a host, or asks for NVIDIA's collective library" >&2
    exit 1
fi
