# The model server: docker build -t churn-serving .    (or: make image; how big and why: docs/image.md)
# What drives rollouts: docker build -t rollout-controller --target controller --build-arg LOCK=controller.txt .
# (or: make image-controller)
# What measures quality once a day (seldon/quality): the same with --target quality --build-arg LOCK=quality.txt
# (or: make image-quality)
#
# A model is mounted at /mnt/models, or baked in there: --build-arg BUNDLE=var/bundle. A mount hides a baked model.
ARG BASE_IMAGE=python:3.12-slim-bookworm

FROM ${BASE_IMAGE} AS python
# Given only where packages come through a mirror or behind a private certificate authority; no image keeps them.
ARG PIP_INDEX_URL
ARG PIP_CERT
ARG UV_DEFAULT_INDEX
ARG SSL_CERT_FILE
# seldon.txt makes the image of seldon/overlays/seldon-protocol, on Python 3.12.
ARG LOCK=image.txt
WORKDIR /build
COPY requirements/bootstrap.txt requirements/${LOCK} requirements/
RUN python3 -m venv /tools \
 && /tools/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements/bootstrap.txt
# `uv pip sync` installs the lock and nothing that it does not name. What no server imports goes: test suites, model
# conversion, Arrow's headers and its Flight protocol, the second documentation page. Bytecode is compiled here: the server cannot write it.
# (WORKDIR takes no wildcard, and the folder's name holds Python's version.)
# hadolint ignore=DL3003
RUN --mount=type=cache,target=/root/.cache/uv \
    python3 -m venv --without-pip /opt/serving/python \
 && UV_LINK_MODE=copy VIRTUAL_ENV=/opt/serving/python /tools/bin/uv pip sync --require-hashes "requirements/${LOCK}" \
 && cd /opt/serving/python/lib/python3*/site-packages \
 && find . -type d -regex '\./\(numpy\|scipy\|pandas\|sklearn\)/.*tests' -prune -exec rm -r {} + \
 && rm -rf onnxruntime/transformers onnxruntime/quantization onnxruntime/tools fastapi_offline/static/redoc* \
        pyarrow/include pyarrow/src pyarrow/tests pyarrow/*flight* \
 && python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash . \
 && rm -f /opt/serving/python/.lock

FROM python AS build
COPY custom_runtime /opt/serving/custom_runtime
RUN python3 -m compileall -q --invalidation-mode unchecked-hash /opt/serving/custom_runtime

FROM ${BASE_IMAGE} AS base
# An image that serves installs nothing: the base's own pip goes, wherever that base keeps it.
RUN rm -rf /usr/local/bin/pip* /usr/local/lib/python3*/site-packages/pip* /usr/local/lib/python3*/ensurepip \
        /usr/lib/python3*/ensurepip /usr/share/python-wheels \
 && useradd --uid 1000 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin serving
WORKDIR /opt/serving
ENV PATH=/opt/serving/python/bin:$PATH \
    PYTHONPATH=/opt/serving \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
COPY LICENSE LICENSE

FROM python AS build-controller
COPY rollout /opt/serving/rollout
COPY commands /opt/serving/commands
RUN python3 -m compileall -q --invalidation-mode unchecked-hash /opt/serving/rollout /opt/serving/commands

FROM base AS controller
COPY --from=build-controller /opt/serving/python /opt/serving/python
COPY --from=build-controller /opt/serving/rollout /opt/serving/rollout
COPY --from=build-controller /opt/serving/commands /opt/serving/commands
USER 1000:1000
EXPOSE 8080
ENTRYPOINT ["python", "-m", "commands.main", "rollout", "controller"]
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="rollout-controller" \
      org.opencontainers.image.description="Drives the rollouts of SeldonDeployments" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

FROM python AS build-quality
COPY custom_runtime /opt/serving/custom_runtime
COPY handoff /opt/serving/handoff
COPY commands /opt/serving/commands
RUN python3 -m compileall -q --invalidation-mode unchecked-hash \
        /opt/serving/custom_runtime /opt/serving/handoff /opt/serving/commands

FROM base AS quality
COPY --from=build-quality /opt/serving /opt/serving
ARG BUNDLE
COPY ${BUNDLE:-LICENSE} /mnt/models/
USER 1000:1000
ENTRYPOINT ["python", "-m", "commands.main", "quality"]
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="model-quality" \
      org.opencontainers.image.description="Measures the quality of a served model from its records and late labels" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

FROM base
# In two layers: a new version of the service pulls the small one only.
COPY --from=build /opt/serving/python /opt/serving/python
COPY --from=build /opt/serving/custom_runtime /opt/serving/custom_runtime
COPY model-settings/settings.json model-settings/settings.json
COPY model-settings/churn model-settings/churn
COPY scripts/serve.py scripts/serve.py
# A COPY has to copy something: without BUNDLE the folder holds the licence alone.
ARG BUNDLE
COPY ${BUNDLE:-LICENSE} /mnt/models/
ENV SERVING_BUNDLE=/mnt/models
USER 1000:1000
EXPOSE 8080 8081 8082
# Of the server, not of a model by its name: that is the contract's. It is ready once its model is loaded. It speaks TLS as the server does.
HEALTHCHECK --interval=15s --timeout=3s --start-period=30s --retries=3 CMD ["python", "-m", "custom_runtime.server.health"]
ENTRYPOINT ["python", "scripts/serve.py"]
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="churn-serving" \
      org.opencontainers.image.description="A tabular model on MLServer: /predict, V2 REST and V2 gRPC" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
