"""A load test's result as a person reads it, and as a program does."""

from __future__ import annotations

from typing import Any

from rich.markup import escape
from rich.table import Table

from benchmarks.load_plan import LoadPlan
from benchmarks.load_result import LoadResult


def as_json(plan: LoadPlan, result: LoadResult) -> dict[str, Any]:
    """Return what `-o json` prints; latencies in ms, from each request's scheduled arrival."""
    summary = result.summary
    return {
        "valid": result.valid,
        "reasons": list(result.reasons),
        "target_qps": plan.qps,
        "scheduled_qps": summary.scheduled_qps,
        "achieved_qps": summary.completed_qps,
        "requests": result.requests,
        "errors": result.errors,
        "error_example": result.example,
        "bound_ms": plan.bound_ms,
        "latency_ms": {
            "mean": summary.mean_ms,
            "p50": summary.p50_ms,
            "p90": summary.p90_ms,
            "p99": summary.p99_ms,
            "p99.9": summary.p999_ms,
            "max": summary.max_ms,
        },
        "client": {
            "cpu": round(result.client_cpu, 3),
            "lag_mean_ms": round(result.lag_mean_ms, 3),
            "lag_p99_ms": round(result.lag_p99_ms, 3),
            "bottleneck": result.bottleneck,
        },
    }


def as_table(plan: LoadPlan, result: LoadResult) -> Table:
    """Return the table that ends a test."""
    summary = result.summary
    table = Table(title=f"{plan.path} at {plan.qps:,.0f} requests/s (Poisson)", show_header=False, title_justify="left")
    table.add_column(justify="left")
    table.add_column(justify="right")
    table.add_row("P50", f"{summary.p50_ms:.2f} ms")
    table.add_row("P90", f"{summary.p90_ms:.2f} ms")
    table.add_row("P99", f"{summary.p99_ms:.2f} ms (bound {plan.bound_ms:g} ms)")
    table.add_row("P99.9", f"{summary.p999_ms:.2f} ms")
    table.add_row("slowest", f"{summary.max_ms:.2f} ms")
    table.add_row("scheduled", f"{summary.scheduled_qps:,.1f} requests/s")
    table.add_row("achieved", f"{summary.completed_qps:,.1f} requests/s")
    table.add_row("requests", f"{result.requests:,}")
    errors = ", ".join(f"{count:,} x {label}" for label, count in result.errors.items())
    table.add_row("errors", escape(f"{errors} (the first: {result.example})") if errors else "none")
    table.add_row("client", f"{result.client_cpu:.0%} of a core, {result.lag_mean_ms:.2f} ms late on average")
    table.add_row(
        "verdict", "[green]VALID[/]" if result.valid else f"[red]INVALID[/]: {escape('; '.join(result.reasons))}"
    )
    return table
