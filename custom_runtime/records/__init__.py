"""Prediction records: what was predicted, for whom, by which version; Parquet segments or CloudEvents.

May import `prediction` and the rooms below it, and pyarrow; nothing here is imported where records are off.
"""
