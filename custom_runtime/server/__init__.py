"""The serving process: the MLServer subclass, one process, the supervisor of several. Imports every other room."""
