"""`make canary-demo`: one good release and two bad ones, under load, on one machine.

May import `local_seldon` and the packages that it may import; it runs the rollout commands as processes.
"""
