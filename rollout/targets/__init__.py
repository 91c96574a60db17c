"""The port to a SeldonDeployment in `target.py`, and one adapter per module.

May import `manifest`, `plan`, `analysis` and `errors`. Only `kubernetes.py` and `kubernetes_connection.py` import the
package kubernetes.
"""
