"""The errors between the data and the bundle, as one tree.

    HandoffError
    |-- DataError         the table cannot be read, lacks a column, or has a value that the contract does not allow
    |-- TrainingRefused   the model trained, and is not good enough to register
    |-- RegistryError     the registry cannot be reached, or does not hold what was asked for
    |-- PromotionRefused  the challenger is worse than the champion, or cannot be compared with it
    |-- ImportRefused     the registered model is not what the contract says, or its ONNX form does not agree with it
    `-- ImageError        the container image cannot be built here, or does not run as it says

Every one of them is a refusal before anything is written: what is registered and what is served stay as they are.
A message says what happened, with which value, what is allowed, and where it helps what to run next.
"""

from __future__ import annotations


class HandoffError(Exception):
    """The hand-off stopped before it wrote anything."""


class DataError(HandoffError):
    """The table cannot be read, lacks a column, or has a value that is not allowed."""


class TrainingRefused(HandoffError):
    """The model trained, and is not good enough to register."""


class RegistryError(HandoffError):
    """The registry cannot be reached, or does not hold what was asked for."""


class PromotionRefused(HandoffError):
    """The challenger is significantly worse than the champion, or cannot be compared with it."""


class ImportRefused(HandoffError):
    """The registered model breaks the contract, or its ONNX form does not agree with it."""


class ImageError(HandoffError):
    """The container image cannot be built on this machine, or does not run as it says."""
