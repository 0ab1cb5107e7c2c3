# syntax=docker/dockerfile:1
# The gateway with the embedded model family: no GPU, no torch. `--build-arg EXTRAS=[providers]` adds litellm.

FROM python:3.12-slim-bookworm@sha256:54c85f3c47607a77f32adec749d3c81d1348bf25833671f512b26a9b6d778cb3 AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
RUN python -m venv /opt/pointsman
COPY deploy/requirements.txt deploy/sbom.py ./
# The dependencies alone, so that a change of the code does not fetch them again; each file by its hash.
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/pointsman/bin/pip install --require-hashes --requirement requirements.txt
ARG EXTRAS=""
COPY pyproject.toml README.md LICENSE ./
COPY policies policies
COPY backends backends
COPY router router
COPY evaluation evaluation
COPY cli cli
COPY pointsman pointsman
# Extras are not in requirements.txt: they come as their publishers have them today.
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/pointsman/bin/pip install --no-build-isolation ".${EXTRAS}" \
    && /opt/pointsman/bin/python sbom.py > /opt/pointsman/sbom.json

FROM python:3.12-slim-bookworm@sha256:54c85f3c47607a77f32adec749d3c81d1348bf25833671f512b26a9b6d778cb3
LABEL org.opencontainers.image.title="Pointsman" org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --uid 10001 --create-home --home-dir /var/lib/pointsman --shell /usr/sbin/nologin pointsman
COPY --from=build /opt/pointsman /opt/pointsman
COPY deploy/settings/image.yaml /etc/pointsman/pointsman.yaml
# Two cores are shared with the event loop: numeric libraries keep to one thread.
# Every verb in the container is about the settings that it serves.
ENV PATH=/opt/pointsman/bin:$PATH PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1 POINTSMAN_CONFIG=/etc/pointsman/pointsman.yaml
USER 10001
WORKDIR /var/lib/pointsman
VOLUME /var/lib/pointsman
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8080/health', timeout=2)"]
ENTRYPOINT ["pointsman"]
CMD ["serve", "--config", "/etc/pointsman/pointsman.yaml"]
