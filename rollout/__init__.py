"""Progressive delivery for SeldonDeployments: what runs in the pipeline.

The rooms in import order. A room imports only rooms on the lines above its own:

    errors, clock
    manifest             typed manifests, checks, rendering
    analysis             counts -> verdicts
    plan                 rollout.yaml and options
    evidence, targets    where counts come from, and where a deployment runs
    engine               state, rules, decision, promoter
    reporting            page, charts, terminal, metrics, webhook
    controller           drives every rollout of a cluster
    cli                  the commands

Nothing here imports custom_runtime, handoff, local_seldon, benchmarks or image.
"""
