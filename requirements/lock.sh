#!/usr/bin/env bash
# Compile the locks: one resolution for Python 3.11 and 3.12, with hashes, naming no index.
# dev.txt holds everything; the others are cut from it, so that a pod runs the versions that were tested.
set -euo pipefail
# XGBoost's wheel asks for NVIDIA's collective library (345 MB), which a CPU never loads: no lock names it.
cuda=(--no-emit-package nvidia-nccl-cu12 --no-emit-package nvidia-nccl-cu13)
cd "$(dirname "$0")/.."
uv=${UV:-uv}
upgrade=${UPGRADE---upgrade}
compile() { # compile OUTPUT [arguments]
    local output=$1; shift
    "$uv" pip compile --quiet --universal --python-version "${python:-3.11}" --generate-hashes --no-emit-index-url --no-annotate \
        --no-header "${cuda[@]}" --output-file "requirements/$output" "$@" >/dev/null
}
compile dev.txt $upgrade --extra dev pyproject.toml
for extra in serve train quality deploy controller; do
    compile "$extra.txt" $upgrade --constraint requirements/dev.txt --extra "$extra" pyproject.toml
done
# The image: the serve extra without what no container needs (image-overrides.txt says why), XGBoost without GPU code.
xgboost=$(sed -nE 's/^xgboost==([0-9.]+).*/\1/p' requirements/dev.txt)
compile image.txt $upgrade --constraint requirements/dev.txt --overrides requirements/image-overrides.txt \
    --extra serve pyproject.toml - <<<"xgboost-cpu==$xgboost"
# Seldon's own protocol: Python 3.12 and NumPy 1.26 are seldon-core's terms, so it is resolved for itself.
python=3.12 compile seldon.txt $upgrade --overrides requirements/seldon-overrides.txt \
    --extra serve --extra seldon pyproject.toml - <<<"xgboost-cpu==$xgboost"
# What a newcomer's `make serve` needs: training, importing and serving.
compile quickstart.txt $upgrade --constraint requirements/dev.txt --extra serve --extra train pyproject.toml
# The documentation's site, for an environment of its own.
compile docs.txt $upgrade - <<<'mkdocs-material>=9.6'
# What installs the others, and this project into their environment without fetching a build tool.
compile bootstrap.txt $upgrade --constraint requirements/dev.txt - <<<$'uv\nsetuptools'
if grep -nE '://|^nvidia' requirements/*.txt; then
    echo "a lock names a host, or asks for a CUDA library" >&2
    exit 1
fi
