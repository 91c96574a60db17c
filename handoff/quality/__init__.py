"""How good a served model is, from its prediction records and the labels that came later.

May import `evaluation`, `columns` and what is below them; the records are read by `custom_runtime.records`.
"""
