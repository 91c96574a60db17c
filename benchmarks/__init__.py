"""An open-loop load test, and the servers that this project is measured against, side by side in one run."""
