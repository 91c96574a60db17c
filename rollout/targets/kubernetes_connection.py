"""The connection to the API server: credentials, timeouts and readable errors, for any kind of request."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import urllib3
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException, OpenApiException
from kubernetes.config import ConfigException
from yaml import YAMLError

from rollout.errors import Conflict, Denied, NotFound, Rejected, TargetError, Unavailable

IN_CLUSTER_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
CONNECT_TIMEOUT_S = 3.0


class Connection:
    """An API client for one namespace. In a pod it uses the service account, elsewhere KUBECONFIG."""

    def __init__(self, *, namespace: str = "", context: str = "", timeout_s: float = 10.0) -> None:
        self.context = context
        self._timeout_s = (CONNECT_TIMEOUT_S, timeout_s)
        self._api = self._load()
        self.namespace = namespace or self._own_namespace()
        self.identity = f"{socket.gethostname()}-{os.getpid()}"

    def call(self, doing: str, method: Callable[..., Any], **arguments: Any) -> Any:
        """Call a method (unbound) of one of the client's API classes. doing: text for messages. Raises TargetError.

        An expired token is read again once, because kubelets and credential plugins rotate it under a running process.
        """
        try:
            return self._call(method, arguments)
        except ApiException as error:
            if error.status != 401:
                raise readable(error, doing) from error
            self._api = self._load()
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise Unavailable(f"cannot {doing}: {error}") from error
        except OpenApiException as error:
            raise Rejected(f"cannot {doing}: the answer or the request has an unexpected form: {error}") from error
        try:
            return self._call(method, arguments)
        except ApiException as error:
            raise readable(error, doing) from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise Unavailable(f"cannot {doing}: {error}") from error

    def _call(self, method: Callable[..., Any], arguments: dict[str, Any]) -> Any:
        api_class = getattr(client, method.__qualname__.partition(".")[0])
        return method(api_class(self._api), **arguments, _request_timeout=self._timeout_s)

    def _load(self) -> client.ApiClient:
        settings = client.Configuration()
        try:
            if IN_CLUSTER_NAMESPACE.exists() and not (self.context or os.environ.get("KUBECONFIG")):
                config.load_incluster_config(settings)  # type: ignore[no-untyped-call]
            else:
                config.load_kube_config(  # type: ignore[no-untyped-call]
                    _kubeconfig(), client_configuration=settings, context=self.context or None
                )
        except (ConfigException, OSError, YAMLError) as error:
            said = " ".join(str(error).split()).rstrip(".")
            raise Denied(
                f"no cluster can be reached: {said}; set KUBECONFIG, or run in a pod with a service account"
            ) from error
        settings.retries = False  # the promoter retries by itself, and must know about each attempt
        return client.ApiClient(settings)

    def _own_namespace(self) -> str:
        if IN_CLUSTER_NAMESPACE.exists():
            return IN_CLUSTER_NAMESPACE.read_text().strip()
        try:
            contexts, active = config.list_kube_config_contexts(_kubeconfig())  # type: ignore[no-untyped-call]
        except ConfigException:
            return "default"
        chosen = next((one for one in contexts if one["name"] == self.context), active)
        return str(chosen["context"].get("namespace") or "default")


def _kubeconfig() -> str | None:
    return os.environ.get("KUBECONFIG") or None  # the client reads the variable only once, when it is imported


def readable(error: ApiException, doing: str) -> TargetError:
    """Return the error of this package for an HTTP status, with the server's message and what to do."""
    said = _message(error)
    match error.status:
        case 401:
            return Denied(f"cannot {doing}: the API server does not know who asks (401: {said}); renew the credentials")
        case 403:
            return Denied(f"cannot {doing}: not allowed (403: {said}); seldon/base/promoter-role.yaml lists the rights")
        case 404:
            return NotFound(f"cannot {doing}: not found (404: {said})")
        case 409:
            return Conflict(f"cannot {doing}: somebody wrote in between (409: {said})")
        case 400 | 422:
            return Rejected(f"cannot {doing}: refused ({error.status}: {said})")
        case _:
            return Unavailable(f"cannot {doing}: {error.status} {error.reason}: {said}")


def _message(error: ApiException) -> str:
    try:
        return str(json.loads(error.body or "")["message"])
    except (TypeError, ValueError, KeyError):
        return str(error.body or error.reason)[:200]
