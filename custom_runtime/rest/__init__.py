"""The REST listener, its routes and pages, and the OpenAPI document. Imports `network`, `protocol`, the runtime."""
