"""Inference graphs on this machine: Seldon's executor, and a pod of several containers that are processes here.

May import the modules of local_seldon that know one process, and rollout.manifest; never the service.
"""
