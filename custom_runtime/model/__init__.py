"""The model on disk and in memory: feature encoding, the bundle, scoring.

Imports the contract and its schema only.
"""
