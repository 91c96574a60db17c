# shellcheck shell=bash disable=SC2034
# The tested versions: docs/runbook.md lists them, and a test compares the two.
# Seldon Core 1.17.1 is the last release under Apache-2.0. It supports Kubernetes up to 1.27, which decides the others.
SELDON_VERSION=1.17.1
KUBERNETES_VERSION=v1.27.17
ISTIO_VERSION=1.20.8
PROMETHEUS_STACK_VERSION=65.8.1
CLUSTER=churn
NAMESPACE=churn-kind
