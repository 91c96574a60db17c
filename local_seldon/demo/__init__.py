"""`make canary-demo`: one good release and two bad ones, under load, on one machine."""
