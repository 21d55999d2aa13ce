# One target per service, each with the packages of its own role only:
#
#     docker build --target infer --tag visionmesh-infer .
#
# The base is named once; every stage below is built from it.
FROM python:3.11.15-slim-bookworm AS python
ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1

FROM python AS wheel
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY libs libs
COPY services services
RUN pip wheel --no-deps --wheel-dir /wheels .

# An environment of its own: it is copied as a whole, and pip's leftovers stay behind. EXTRAS are those
# of its role; docker-compose.gpu.yml has others.
FROM python AS environment
RUN python -m venv /opt/visionmesh
COPY constraints.txt /constraints.txt
COPY --from=wheel /wheels /wheels

FROM environment AS ingest-environment
ARG EXTRAS=ingest
RUN /opt/visionmesh/bin/pip install -c /constraints.txt "$(echo /wheels/*.whl)[$EXTRAS]"

FROM environment AS preprocess-environment
ARG EXTRAS=preprocess
RUN /opt/visionmesh/bin/pip install -c /constraints.txt "$(echo /wheels/*.whl)[$EXTRAS]"

FROM environment AS infer-environment
ARG EXTRAS=infer
RUN /opt/visionmesh/bin/pip install -c /constraints.txt "$(echo /wheels/*.whl)[$EXTRAS]"

FROM environment AS postprocess-environment
ARG EXTRAS=postprocess
RUN /opt/visionmesh/bin/pip install -c /constraints.txt "$(echo /wheels/*.whl)[$EXTRAS]"

FROM environment AS producer-environment
RUN /opt/visionmesh/bin/pip install -c /constraints.txt "$(echo /wheels/*.whl)[models]"

# Slabs in shared memory belong to this user in every container of a node. Besides them only infer
# writes, its models, below /tmp.
FROM python AS runtime
RUN useradd --uid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin visionmesh
ENV PATH=/opt/visionmesh/bin:$PATH \
    VISIONMESH_HOST=0.0.0.0 \
    VISIONMESH_TRACING__KEEP_BYTES=0
USER 10001:10001
WORKDIR /tmp

# `visionmesh serve` becomes the service itself, which is process 1, ends in order on SIGTERM and
# starts no children, so that no init is needed.
FROM runtime AS service
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]

# Where ingest speaks TLS, its certificate is not made out for 127.0.0.1, so it is not checked here.
# Clients need an API key, as it listens on all addresses: `visionmesh keys add NAME` makes one.
FROM service AS ingest
COPY --from=ingest-environment /opt/visionmesh /opt/visionmesh
ENV VISIONMESH_INGEST__PORT=8000 \
    VISIONMESH_INGEST__GRPC_PORT=8001
EXPOSE 8001
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import os, ssl; from urllib.request import urlopen; tls = any(name.startswith('VISIONMESH_INGEST__TLS') for name in os.environ); urlopen(f'http{\"s\" * tls}://127.0.0.1:8000/healthz', timeout=4, context=ssl._create_unverified_context() if tls else None)"]
CMD ["visionmesh", "serve", "ingest"]

FROM service AS preprocess
COPY --from=preprocess-environment /opt/visionmesh /opt/visionmesh
ENV VISIONMESH_PREPROCESS__PORT=8000
CMD ["visionmesh", "serve", "preprocess"]

FROM service AS infer
COPY --from=infer-environment /opt/visionmesh /opt/visionmesh
ENV VISIONMESH_INFER__PORT=8000
CMD ["visionmesh", "serve", "infer"]

FROM service AS postprocess
COPY --from=postprocess-environment /opt/visionmesh /opt/visionmesh
ENV VISIONMESH_POSTPROCESS__PORT=8000
CMD ["visionmesh", "serve", "postprocess"]

# The command line: publishes images, and pushes models, which it checks with all that would serve them.
FROM runtime AS producer
COPY --from=producer-environment /opt/visionmesh /opt/visionmesh
ENTRYPOINT ["visionmesh"]
CMD ["--help"]
