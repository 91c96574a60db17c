"""The load test, the comparison with other servers in one run, and the soak test.

The rooms in import order: `errors`, `programs`, then `load`, then `compare` and `soak`, then `__main__`. May import
`custom_runtime.contract`, `model` and `features`, and `handoff`, to prepare what is measured, and `local_seldon.ports`.
"""
