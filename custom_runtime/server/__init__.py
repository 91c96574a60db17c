"""The serving process: the MLServer subclass, one process, and the supervisor of several processes.

May import every other room of `custom_runtime`.
"""
