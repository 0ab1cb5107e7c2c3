"""CUDA source to kernels of the current device, by NVIDIA's run-time compiler, kept on disk between starts.

A compiled kernel is a file named by the digest of all it was made from: sources, options, architecture, compiler. It
begins with the digest of its own contents; one that is damaged, or cannot be written, is compiled again.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
SOURCES = ("decode.cuh", "hopper.cuh")  # what every kernel includes
CACHE = "POINTSMAN_KERNEL_CACHE"  # the environment variable that names the folder
OLDEST = (8, 0)  # the first architecture with what the kernels use
DIGEST_BYTES = 32


class KernelError(RuntimeError):
    """The CUDA driver or compiler refused something."""


def cache_folder() -> Path:
    """Where compiled kernels are kept."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get(CACHE) or Path(base) / "pointsman" / "kernels")


def architecture(capability: tuple[int, int]) -> str:
    """As the compiler names it. Raises: KernelError below OLDEST."""
    if capability < OLDEST:
        have, need = (".".join(map(str, each)) for each in (capability, OLDEST))
        raise KernelError(f"this GPU has compute capability {have}; the any-precision kernels need {need} or newer")
    major, minor = capability
    return f"sm_{major}{minor}{'a' if major >= 9 else ''}"


def binary(file: str, options: Sequence[str], arch: str, *, folder: Path | None = None) -> bytes:
    """The machine code of FILE.cu, cached or compiled now. Raises: KernelError with the compiler's words."""
    folder = folder or cache_folder()
    texts = {name: (FOLDER / name).read_text() for name in (f"{file}.cu", *SOURCES)}
    key = hashlib.sha256(repr((sorted(texts.items()), tuple(options), arch, compiler_version())).encode()).hexdigest()
    path = folder / f"{file}-{arch}-{key[:32]}.cubin"
    found = _read(path)
    if found is None:
        found = _compile(file, texts, options, arch)
        _write(path, found)
    return found


def _read(path: Path) -> bytes | None:
    """The contents of a cache entry; None where there is none, or a damaged one."""
    with contextlib.suppress(OSError):
        whole = path.read_bytes()
        digest, contents = whole[:DIGEST_BYTES], whole[DIGEST_BYTES:]
        if hashlib.sha256(contents).digest() == digest:
            return contents
    return None


def _write(path: Path, contents: bytes) -> None:
    """All of it or nothing; a folder that cannot be written costs only time."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as out:
            out.write(hashlib.sha256(contents).digest() + contents)
        Path(out.name).replace(path)


def _checked(answer: tuple[Any, ...]) -> Any:
    """The values of an answer of cuda-bindings. Raises: KernelError."""
    status, *values = answer
    if status.value:
        raise KernelError(str(status))
    return values[0] if len(values) == 1 else values


@functools.cache
def compiler_version() -> tuple[int, int]:
    """NVRTC's."""
    from cuda.bindings import nvrtc  # noqa: PLC0415  there only where a GPU is

    major, minor = _checked(nvrtc.nvrtcVersion())
    return major, minor


def _compile(file: str, texts: dict[str, str], options: Sequence[str], arch: str) -> bytes:
    from cuda.bindings import nvrtc  # noqa: PLC0415  there only where a GPU is

    headers = [name.encode() for name in SOURCES]
    bodies = [texts[name].encode() for name in SOURCES]
    source = texts[f"{file}.cu"].encode()
    program = _checked(nvrtc.nvrtcCreateProgram(source, f"{file}.cu".encode(), len(headers), bodies, headers))
    words = [f"--gpu-architecture={arch}", "-std=c++17", "-default-device", *(f"-D{option}" for option in options)]
    status, *_ = nvrtc.nvrtcCompileProgram(program, len(words), [word.encode() for word in words])
    if status.value:
        log = b" " * _checked(nvrtc.nvrtcGetProgramLogSize(program))
        _checked(nvrtc.nvrtcGetProgramLog(program, log))
        raise KernelError(f"{file}.cu: {log.decode(errors='replace').strip()}")
    found = b" " * _checked(nvrtc.nvrtcGetCUBINSize(program))
    _checked(nvrtc.nvrtcGetCUBIN(program, found))
    _checked(nvrtc.nvrtcDestroyProgram(program))
    return bytes(found)


@functools.cache
def load(file: str, name: str, options: tuple[str, ...], *, device: int, shared_bytes: int) -> Any:
    """The kernel `name` of FILE.cu on a device, allowed so much dynamic shared memory a block. Raises: KernelError."""
    import torch  # noqa: PLC0415  the compiler alone needs none
    from cuda.bindings import driver  # noqa: PLC0415  there only where a GPU is

    contents = binary(file, options, architecture(torch.cuda.get_device_capability(device)))
    with torch.cuda.device(device):
        module = _checked(driver.cuModuleLoadData(contents))
        function = _checked(driver.cuModuleGetFunction(module, name.encode()))
        limit = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        _checked(driver.cuFuncSetAttribute(function, limit, shared_bytes))
    return function


def launch(
    function: Any, grid: tuple[int, int, int], threads: int, shared_bytes: int, arguments: ctypes.Structure,
    *, early: bool = False, cluster: int = 1,
) -> None:  # fmt: skip
    """Queue a kernel with one argument, a structure passed by value, on torch's current stream.

    `early`: it may begin before the kernel ahead ends; `cluster`: so many blocks along z are one. Raises: KernelError.
    """
    import torch  # noqa: PLC0415  the compiler alone needs none
    from cuda.bindings import driver  # noqa: PLC0415  there only where a GPU is

    parameters = (ctypes.c_void_p * 1)(ctypes.addressof(arguments))
    config = _config(grid, threads, shared_bytes, torch.cuda.current_stream().cuda_stream, early, cluster)
    _checked(driver.cuLaunchKernelEx(config, function, ctypes.addressof(parameters), 0))


@functools.lru_cache(maxsize=4096)
def _config(
    grid: tuple[int, int, int], threads: int, shared_bytes: int, stream: int, early: bool, cluster: int
) -> Any:  # made once, for it takes longer than the launch
    from cuda.bindings import driver  # noqa: PLC0415  there only where a GPU is

    config = driver.CUlaunchConfig()
    config.gridDimX, config.gridDimY, config.gridDimZ = grid
    config.blockDimX, config.blockDimY, config.blockDimZ = threads, 1, 1
    config.sharedMemBytes, config.hStream = shared_bytes, stream
    attributes = []
    if early:
        attribute = driver.CUlaunchAttribute()
        attribute.id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
        attribute.value.programmaticStreamSerializationAllowed = 1
        attributes.append(attribute)
    if cluster > 1:
        attribute = driver.CUlaunchAttribute()
        attribute.id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
        attribute.value.clusterDim.x, attribute.value.clusterDim.y, attribute.value.clusterDim.z = 1, 1, cluster
        attributes.append(attribute)
    config.attrs, config.numAttrs = attributes, len(attributes)
    return config
