"""The open-loop load test: client, arrival times, result and plot.

May import `benchmarks.programs` and `errors`; nothing of the service.
"""
