"""The options that rollout commands share; each is declared once with its flag, type and help text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from rollout.targets.place import STATE_ROOT

Format = Literal["text", "json"]
TargetKind = Literal["kubernetes", "local"]

LOGS = Path("var/rollouts")
STATE = STATE_ROOT
LEASE_S = 15

Name = Annotated[str, typer.Argument(help="The SeldonDeployment's name, such as my-model.")]

# The target of a deployment: a cluster, or this machine.
Target = Annotated[TargetKind, typer.Option("--target", help="Where the deployment lives.")]
Namespace = Annotated[str, typer.Option("--namespace", "-n", help="Default: the context's, or `default`.")]
Context = Annotated[str, typer.Option(help="The KUBECONFIG context; default: the current one.")]
State = Annotated[Path, typer.Option("--state", help="With --target local: the --state of `churn-serving local`.")]

# What is rolled out.
Version = Annotated[str, typer.Option(help="The new predictor's name, such as v8.")]
Image = Annotated[str, typer.Option(help="The new image; default: the stable predictor's.")]
ModelUri = Annotated[str, typer.Option(help="The new bundle, such as s3://models/my-model/8.")]
Env = Annotated[list[str] | None, typer.Option(help="NAME=VALUE in the new model container. Repeatable.")]

# Steps and limits; values that are not given come from the config.
ConfigFile = Annotated[Path | None, typer.Option("--config", help="Default: seldon/rollout.yaml, if there is one.")]
Steps = Annotated[str, typer.Option(help="Percent of each step, such as 10,30,50,100.")]
MinDuration = Annotated[float | None, typer.Option(help="Seconds that a step lasts at least.")]
MaxDuration = Annotated[float | None, typer.Option(help="Seconds after which a step without verdict is held.")]
MinRequests = Annotated[int | None, typer.Option(help="Requests that the new version must get in each step.")]
Bake = Annotated[float | None, typer.Option(help="Seconds at 100 % before the old version is deleted.")]
Interval = Annotated[float | None, typer.Option(help="Seconds between two observations.")]
Manual = Annotated[list[int] | None, typer.Option(help="Wait for a person after this percentage. Repeatable.")]
OnSigterm = Annotated[
    Literal["hold", "rollback"] | None,
    typer.Option(help="Whether SIGTERM and Ctrl-C hold the rollout or roll it back."),
]
WatchHeld = Annotated[float | None, typer.Option(help="Seconds that a held rollout is watched before exit code 3.")]

# The source of the counts, and the receivers of the events.
Evidence = Annotated[str, typer.Option(help="prometheus=URL, or scrape (--target local); default: from the config.")]
WebhookUrl = Annotated[str, typer.Option("--webhook", help="Gets a POST for every change.")]
LogDir = Annotated[Path, typer.Option("--log", help="Where the JSONL log and the HTML report go.")]
MetricsPort = Annotated[int, typer.Option(help="Serve the promoter's own metrics there; 0: do not.", min=0, max=65535)]
LeaseS = Annotated[
    int, typer.Option("--lease", help="Seconds after which another promoter may take over from one that died.", min=1)
]

Adopt = Annotated[bool, typer.Option("--adopt", help="Go on from what somebody else changed.")]
Watch = Annotated[bool, typer.Option("--watch", "-w", help="Follow until the rollout is over.")]
Full = Annotated[bool, typer.Option("--full", help="Skip all analysis and go to 100 %, where it still bakes.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the JSON Patch, and change nothing.")]
Output = Annotated[Format, typer.Option("--output", "-o", help="What is printed.")]
