"""CUDA source to a kernel on the current device, by NVIDIA's run-time compiler."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from cuda.bindings import driver, nvrtc

FOLDER = Path(__file__).parent
HEADERS = ("common.cuh",)


class KernelError(RuntimeError):
    """The CUDA driver or compiler refused something."""


def _checked(answer: tuple[Any, ...]) -> Any:
    """The values of an answer of cuda-bindings. Raises: KernelError."""
    status, *values = answer
    if status.value:
        raise KernelError(str(status))
    return values[0] if len(values) == 1 else values


@functools.cache
def load(name: str, macros: tuple[str, ...], device: int, shared_bytes: int) -> Any:
    """The function `name` of NAME.cu compiled with -D options, allowed so much dynamic shared memory a block.

    Raises: KernelError, with the compiler's words.
    """
    binary = _compile(name, macros, torch.cuda.get_device_capability(device))
    with torch.cuda.device(device):
        module = _checked(driver.cuModuleLoadData(binary))
        function = _checked(driver.cuModuleGetFunction(module, name.encode()))
        limit = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        _checked(driver.cuFuncSetAttribute(function, limit, shared_bytes))
    return function


def _compile(name: str, macros: Iterable[str], capability: tuple[int, int]) -> bytes:
    source = (FOLDER / f"{name}.cu").read_bytes()
    headers = [(FOLDER / header).read_bytes() for header in HEADERS]
    named = [header.encode() for header in HEADERS]
    program = _checked(nvrtc.nvrtcCreateProgram(source, f"{name}.cu".encode(), len(headers), headers, named))
    major, minor = capability
    suffix = "a" if major >= 9 else ""  # with the instructions of this architecture alone
    options = [f"--gpu-architecture=sm_{major}{minor}{suffix}", "-std=c++17", *(f"-D{macro}" for macro in macros)]
    status, *_ = nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])
    if status.value:
        log = b" " * _checked(nvrtc.nvrtcGetProgramLogSize(program))
        _checked(nvrtc.nvrtcGetProgramLog(program, log))
        raise KernelError(f"{name}.cu: {log.decode(errors='replace').strip()}")
    binary = b" " * _checked(nvrtc.nvrtcGetCUBINSize(program))
    _checked(nvrtc.nvrtcGetCUBIN(program, binary))
    _checked(nvrtc.nvrtcDestroyProgram(program))
    return binary


def launch(
    function: Any, grid: tuple[int, int, int], threads: int, shared_bytes: int, arguments: ctypes.Structure
) -> None:
    """Queue a kernel with one argument, a structure passed by value, on torch's current stream. Raises: KernelError."""
    parameters = (ctypes.c_void_p * 1)(ctypes.addressof(arguments))
    stream = torch.cuda.current_stream().cuda_stream
    size = (*grid, threads, 1, 1, shared_bytes)
    _checked(driver.cuLaunchKernel(function, *size, stream, ctypes.addressof(parameters), 0))
