"""This project beside its peers in one run: servers, measurements, goals and the document. Imports `load`."""
