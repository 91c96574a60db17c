"""Every error of the benchmarks, in one tree.

BenchmarkError                      one line for a person; the commands turn it into an exit code
|-- UsageError                      a URL, range or option that is not allowed: exit code 2
|-- TargetError                     the server under test cannot be reached or refuses the first request: exit code 3
|   `-- TargetFailed                it answers the first request with an error of its own: exit code 1
`-- MeasurementError                a measurement failed (errors in a run, answers that differ): exit code 1, and 3 of
                                    load-test, where 1 is a verdict on the service
"""


class BenchmarkError(Exception):
    """Anything that stops a benchmark."""


class UsageError(BenchmarkError):
    """An option's value is not allowed."""


class TargetError(BenchmarkError):
    """The server under test cannot be reached, or refuses the first request: nothing was measured."""


class TargetFailed(TargetError):
    """The server under test answers the first request with an error of its own, such as HTTP 503."""


class MeasurementError(BenchmarkError):
    """A measurement cannot be trusted, so none is reported."""
