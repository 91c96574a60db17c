"""What people and systems see of a rollout: page, charts, terminal, metrics, webhook. Imports `engine`."""
