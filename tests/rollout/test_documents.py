"""Streams of Kubernetes objects, read as Kubernetes reads them."""

from rollout.documents import read_documents


def test_timestamps_stay_text_and_empty_documents_are_passed_over():
    assert read_documents("---\n---\na: 2026-01-02T03:04:05Z\n---\nb: 1\n") == ({"a": "2026-01-02T03:04:05Z"}, {"b": 1})
