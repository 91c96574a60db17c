"""What people and systems see of a rollout: page, charts, terminal, metrics, webhook.

May import `engine` and every room below it.
"""
