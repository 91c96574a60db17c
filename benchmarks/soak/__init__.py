"""Minutes of mixed traffic with faults: no request may be lost, and no resource may grow.

May import `benchmarks.load`, `programs` and `errors`.
"""
