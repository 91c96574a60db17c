#!/usr/bin/env bash
# make kind-up: a kind cluster with Istio, Prometheus and Seldon Core at the tested versions, images of two model versions,
# the features in a Redis, and version 1 deployed. It may be repeated. DRY_RUN=1 prints the commands and runs none.
set -euo pipefail
cd "$(dirname "$0")/../.."
source seldon/kind/versions.sh

run() { # run COMMAND...: print it, and run it unless DRY_RUN=1
    printf '+'; printf ' %q' "$@"; printf '\n'
    [[ ${DRY_RUN:-} == 1 ]] || "$@"
}
chart() { # chart RELEASE CHART REPOSITORY VERSION NAMESPACE [options]
    local release=$1 chart=$2 repository=$3 version=$4 namespace=$5; shift 5
    run helm upgrade --install "$release" "$chart" --repo "$repository" --version "$version" \
        --namespace "$namespace" --create-namespace --wait --timeout 10m "$@"
}

missing=()
for program in docker kind kubectl helm; do
    command -v "$program" >/dev/null || missing+=("$program")
done
if ((${#missing[@]})) && [[ ${DRY_RUN:-} != 1 ]]; then
    echo "error: not installed: ${missing[*]}; kind-up needs docker, kind, kubectl and helm (https://kind.sigs.k8s.io)" >&2
    exit 1
fi

echo "1/6  two model versions, and an image of each"
for version in 1 2; do
    # A registry that has the version already, from `make serve` or an earlier kind-up, keeps it.
    if [[ ${DRY_RUN:-} == 1 ]] || ! .venv/bin/churn-serving import "models:/churn/$version" --output var/bundle --dry-run; then
        run .venv/bin/churn-serving train --seed "$version"
    fi
    run .venv/bin/churn-serving import "models:/churn/$version" --output var/bundle
    run make image IMAGE="churn-serving:$version"
done

echo "2/6  the cluster"
if [[ ${DRY_RUN:-} == 1 ]] || ! kind get clusters 2>/dev/null | grep -qx "$CLUSTER"; then
    run kind create cluster --name "$CLUSTER" --image "kindest/node:$KUBERNETES_VERSION" --wait 5m
fi
run kubectl config use-context "kind-$CLUSTER"
run kind load docker-image churn-serving:1 churn-serving:2 --name "$CLUSTER"

echo "3/6  Istio, Prometheus, Seldon Core"
istio=https://istio-release.storage.googleapis.com/charts
chart istio-base base "$istio" "$ISTIO_VERSION" istio-system
chart istiod istiod "$istio" "$ISTIO_VERSION" istio-system
chart istio-ingressgateway gateway "$istio" "$ISTIO_VERSION" istio-system --set service.type=ClusterIP
chart monitoring kube-prometheus-stack https://prometheus-community.github.io/helm-charts \
    "$PROMETHEUS_STACK_VERSION" monitoring \
    --set grafana.enabled=false --set alertmanager.enabled=false \
    --set prometheus.prometheusSpec.podMonitorSelectorNilUsesHelmValues=false \
    --set prometheus.prometheusSpec.ruleSelectorNilUsesHelmValues=false
chart seldon-core seldon-core-operator https://storage.googleapis.com/seldon-charts "$SELDON_VERSION" seldon-system \
    --set istio.enabled=true

echo "4/6  the deployment"
run kubectl apply --server-side --kustomize seldon/overlays/kind
run kubectl apply --server-side --kustomize seldon/overlays/kind-monitoring

echo "5/6  the features"
run kubectl --namespace "$NAMESPACE" rollout status deployment/redis --timeout=3m
if [[ ${DRY_RUN:-} == 1 ]]; then
    echo "+ kubectl --namespace $NAMESPACE port-forward service/redis 16379:6379 &"
else
    kubectl --namespace "$NAMESPACE" port-forward service/redis 16379:6379 >/dev/null &
    forward=$!
    trap 'kill "$forward" 2>/dev/null || true' EXIT
    for _ in {1..100}; do
        (exec 3<>/dev/tcp/127.0.0.1/16379) 2>/dev/null && break
        sleep 0.3
    done
fi
run .venv/bin/churn-serving features load --store redis://127.0.0.1:16379/0

echo "6/6  wait until version 1 is available"
run kubectl --namespace "$NAMESPACE" wait seldondeployment/churn --for=jsonpath='{.status.state}'=Available --timeout=10m
echo "done: SeldonDeployment churn in the namespace $NAMESPACE; next: docs/tutorials/cluster.md, remove it: make kind-down"
