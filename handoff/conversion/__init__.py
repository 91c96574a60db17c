"""Registered models -> ONNX graphs over the packed feature row; imports the schema, and nothing that serves."""
