"""The open-loop load test: client, LoadGen, result and plot."""
