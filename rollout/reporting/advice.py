"""The next step of a rollout and the useful commands, with the same text in the terminal and on the page."""

from __future__ import annotations

from dataclasses import dataclass

from rollout.engine.state import Phase, RolloutState
from rollout.plan.plan import Step
from rollout.targets.place import UNKNOWN, Place

PROGRAM = "churn-serving rollout"


@dataclass(frozen=True, slots=True)
class Advice:
    """One command and its purpose."""

    command: str
    purpose: str


def commands(
    phase: str, deployment: str, *, stable: str, canary: str, driven: bool = True, place: Place = UNKNOWN
) -> tuple[Advice, ...]:
    """Return the useful commands in a phase, the most likely first. driven: whether a promoter drives the rollout.

    place: where the deployment lives; each command names it, because people paste what they read.
    """

    def advice(verb: str, purpose: str, options: str = "") -> Advice:
        return Advice(f"{PROGRAM} {verb} {deployment}{place.options}{options}", purpose)

    abort = advice("abort", f"return all requests to {stable} now")
    resume = advice("resume", "drive the rollout on from where it stands")
    found: list[Advice]
    match phase:
        case Phase.SUCCEEDED:
            found = [advice("undo", f"bring {stable} back")]
        case Phase.ROLLED_BACK:
            again = advice("run", f"try again under a name other than {canary}", " --version NAME")
            why = [Advice(place.trail, "every decision in the audit trail")] if place.trail else []
            found = [advice("status", "what the mesh routes now"), *why, again]
        case Phase.FAILED:
            found = [advice("abort", f"try again to return all requests to {stable}")]
        case Phase.PAUSED:
            found = [advice("promote", "go on"), abort]
        case Phase.HELD:
            full = advice("promote", "go to 100 % without further analysis", " --full")
            found = [abort, advice("promote", "accept what a gate asks a person, where one does"), full]
        case Phase.ROLLING_BACK:
            found = [advice("status", "follow it", " --watch")]
        case Phase.BAKING | Phase.FINISHING:
            found = [advice("undo", f"return all requests to {stable} while it is still there")]
        case _:
            found = [advice("pause", "keep the weights as they are"), abort]
    over = phase in (Phase.SUCCEEDED, Phase.ROLLED_BACK, Phase.FAILED)
    return (resume, *found) if not driven and not over else tuple(found)


def next_step(state: RolloutState) -> str:
    """Return what happens next, and what it waits for."""
    plan, timers = state.plan, state.timers
    match state.phase:
        case Phase.PENDING:
            left_s = max(0.0, plan.ready_deadline_s - timers.pending_s)
            first = _gets(state, plan.steps[0])
            return f"{first} when its pods are ready; after {left_s:.0f} s more it is removed"
        case Phase.PAUSED:
            return f"a person decides; until then {state.canary} keeps {state.canary_percent} % and is watched"
        case Phase.HELD:
            return f"{state.canary} keeps {state.canary_percent} % until the cause goes away or a person decides"
        case Phase.FINISHING:
            return f"{state.stable} is deleted; {state.canary} serves alone"
        case Phase.ROLLING_BACK:
            return f"all requests return to {state.stable}, verified in the mesh"
        case Phase.SUCCEEDED | Phase.ROLLED_BACK:
            return "nothing; the rollout is over"
        case Phase.FAILED:
            return f"nothing by itself: return all requests to {state.stable} by hand, or run `abort` again"
    step = plan.steps[state.step]
    waits = []
    if (left_s := step.min_duration_s - timers.step_s) > 0:
        waits.append(f"{left_s:.0f} s")
    if (missing := step.min_requests - state.canary_requests) > 0:
        waits.append(f"{missing:,} canary requests")
    if state.analyse:
        waits.append("a pass of every gate" if step.counted else f"a pass of {', '.join(c.name for c in step.checks)}")
        if step.closing and not state.closing:
            waits.append(f"then {', '.join(check.name for check in step.closing)}")
    if step.manual and not state.gate_open:
        waits.append("a person's `promote`")
    then = f"{state.stable} is deleted" if state.step == plan.last else _gets(state, plan.steps[state.step + 1])
    return f"{then}; still needed: {', '.join(waits)}" if waits else f"{then} at the next look"


def _gets(state: RolloutState, step: Step) -> str:
    """Return what the canary gets in a step, as a sentence."""
    if step.mirror_percent:
        return f"{state.canary} gets copies of {step.mirror_percent} % of the requests"
    return f"{state.canary} gets {step.weight_percent} %" if step.weight_percent else f"{step.title} begins at 0 %"


def who_acts(command: str, holder: str, controller: str = "", *, deployment: str = "", place: Place = UNKNOWN) -> str:
    """Return which process will execute a stored command, or drive a started rollout.

    holder: who drives it now. controller: the one that is alive in the namespace. Both are empty if there is none.
    """
    if holder:
        return f"{holder} drives this rollout and acts on `{command}` at its next look"
    if controller:
        return f"{controller} is alive, takes this rollout within seconds, and acts on `{command}` then"
    resume = f"{PROGRAM} resume {deployment}{place.options}"
    return f"nobody drives this rollout, and no controller is alive: `{resume}` will act on `{command}`"
