"""SeldonDeployment manifests: typed values, checks, rendering, capacity. Imports only `rollout.errors`."""
