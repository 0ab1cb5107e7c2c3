# syntax=docker/dockerfile:1
# vLLM with the any-precision plugin: serves stores of `pointsman quantize`, each request at its own width.
# The packaged family is in /stores; mount your own there.
#
#   docker build --file deploy/vllm.Dockerfile --tag pointsman-vllm:0.1.0 .

FROM vllm/vllm-openai:v0.26.0@sha256:ffb2d59b1c059a5bd8d781320c9f5189de8293693b7d95da54befddaa54abf52
LABEL org.opencontainers.image.title="Pointsman's vLLM plugin" org.opencontainers.image.licenses="Apache-2.0"
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY policies policies
COPY backends backends
COPY router router
COPY evaluation evaluation
COPY cli cli
COPY pointsman pointsman
# Without dependencies: vLLM's environment has what the plugin imports, and keeps its own versions of it. NVIDIA's
# compiler makes the kernels for the GPU at hand.
# hadolint ignore=DL3013
RUN pip install --no-cache-dir --no-deps . && pip install --no-cache-dir "cuda-bindings>=13,<14" "nvidia-cuda-nvrtc>=13,<14"
COPY backends/family/stores /stores
WORKDIR /
