"""The output of a rollout for people and systems: page, charts, terminal, metrics, webhook.

May import `engine` and every room below it.
"""
