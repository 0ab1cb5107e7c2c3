"""CUDA source to kernels of the current device, by NVIDIA's run-time compiler."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from cuda.bindings import driver, nvrtc

from backends.anyprec.kernels.tensor_cores import header

FOLDER = Path(__file__).parent


class KernelError(RuntimeError):
    """The CUDA driver or compiler refused something."""


def _checked(answer: tuple[Any, ...]) -> Any:
    """The values of an answer of cuda-bindings. Raises: KernelError."""
    status, *values = answer
    if status.value:
        raise KernelError(str(status))
    return values[0] if len(values) == 1 else values


@functools.cache
def load(file: str, name: str, options: tuple[str, ...], *, places: int, device: int, shared_bytes: int) -> Any:
    """The kernel `name` of FILE.cu, allowed so much dynamic shared memory a block; `places` as in many.cu.

    Raises: KernelError, with the compiler's words.
    """
    binary = _compile(file, options, places, torch.cuda.get_device_capability(device))
    with torch.cuda.device(device):
        module = _checked(driver.cuModuleLoadData(binary))
        function = _checked(driver.cuModuleGetFunction(module, name.encode()))
        limit = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        _checked(driver.cuFuncSetAttribute(function, limit, shared_bytes))
    return function


@functools.cache
def _compile(file: str, options: tuple[str, ...], places: int, capability: tuple[int, int]) -> bytes:
    headers = {"common.cuh": (FOLDER / "common.cuh").read_text(), "wgmma.cuh": header(places)}
    program = _program(file, (FOLDER / f"{file}.cu").read_text(), headers)
    major, minor = capability
    suffix = "a" if major >= 9 else ""  # with the instructions of this architecture alone
    words = [f"--gpu-architecture=sm_{major}{minor}{suffix}", "-std=c++17", *(f"-D{option}" for option in options)]
    status, *_ = nvrtc.nvrtcCompileProgram(program, len(words), [word.encode() for word in words])
    if status.value:
        log = b" " * _checked(nvrtc.nvrtcGetProgramLogSize(program))
        _checked(nvrtc.nvrtcGetProgramLog(program, log))
        raise KernelError(f"{file}.cu: {log.decode(errors='replace').strip()}")
    binary = b" " * _checked(nvrtc.nvrtcGetCUBINSize(program))
    _checked(nvrtc.nvrtcGetCUBIN(program, binary))
    _checked(nvrtc.nvrtcDestroyProgram(program))
    return bytes(binary)


def _program(file: str, source: str, headers: Mapping[str, str]) -> Any:
    texts, names = [text.encode() for text in headers.values()], [name.encode() for name in headers]
    return _checked(nvrtc.nvrtcCreateProgram(source.encode(), f"{file}.cu".encode(), len(headers), texts, names))


def launch(function: Any, grid: tuple[int, int], threads: int, shared_bytes: int, arguments: ctypes.Structure) -> None:
    """Queue a kernel with one argument, a structure passed by value, on torch's current stream. Raises: KernelError."""
    parameters = (ctypes.c_void_p * 1)(ctypes.addressof(arguments))
    stream = torch.cuda.current_stream().cuda_stream
    size = (*grid, 1, threads, 1, 1, shared_bytes)
    _checked(driver.cuLaunchKernel(function, *size, stream, ctypes.addressof(parameters), 0))
