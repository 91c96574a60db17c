"""Every error of the benchmarks, in one tree.

BenchmarkError                      one line for a person; the scripts turn it into an exit code
|-- UsageError                      a URL, range or option that is not allowed: exit code 2
|-- TargetError                     the server under test cannot be reached or refuses the probe: exit code 1
`-- MeasurementError                a measurement failed (errors in a run, answers that differ): exit code 1
"""


class BenchmarkError(Exception):
    """Anything that stops a benchmark."""


class UsageError(BenchmarkError):
    """An option's value is not allowed."""


class TargetError(BenchmarkError):
    """The server under test cannot be reached, or answers the probe with an error."""


class MeasurementError(BenchmarkError):
    """A measurement cannot be trusted, so none is reported."""
