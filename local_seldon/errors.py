"""The errors of a SeldonDeployment that runs on this machine, as one tree.

    LocalSeldonError
    |-- Unsupported         the manifest asks for something that only a cluster has
    |-- MissingArtifact     no directory is known for an image or a modelUri
    |-- MissingProgram      Envoy is not installed
    |-- AlreadyRunning      another `up` holds this deployment
    |-- NotRunning          there is nothing to stop or to look at
    |-- EnvoyError          Envoy did not start, or its port is taken
    |-- DidNotStart         not everything was ready in time
    `-- DemoFailed          the canary demo saw something that must not happen

ManifestError and Rejected of the rollout package are not wrapped.
"""

from __future__ import annotations


class LocalSeldonError(Exception):
    """The root of all errors that this package raises on purpose."""


class Unsupported(LocalSeldonError):
    """The manifest asks for something that only a cluster has."""


class MissingArtifact(LocalSeldonError):
    """No directory is known for an image or a modelUri."""


class MissingProgram(LocalSeldonError):
    """Envoy is not installed."""


class AlreadyRunning(LocalSeldonError):
    """Another `up` holds this deployment."""


class NotRunning(LocalSeldonError):
    """There is nothing to stop or to look at."""


class EnvoyError(LocalSeldonError):
    """Envoy did not start, or its port is taken."""


class DidNotStart(LocalSeldonError):
    """Not everything was ready in time."""


class DemoFailed(LocalSeldonError):
    """The canary demo saw something that must not happen."""
