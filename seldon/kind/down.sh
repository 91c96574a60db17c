#!/usr/bin/env bash
# make kind-down: delete the cluster of make kind-up. DRY_RUN=1 prints the command only.
set -euo pipefail
cd "$(dirname "$0")/../.."
source seldon/kind/versions.sh
echo "+ kind delete cluster --name $CLUSTER"
[[ ${DRY_RUN:-} == 1 ]] || kind delete cluster --name "$CLUSTER"
