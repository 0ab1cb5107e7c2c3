"""The cache of compiled kernels: read when whole, written at once, never believed when damaged."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import backends.anyprec


def load() -> Any:
    """The module by its file: its package needs torch, and the cache does not."""
    file = Path(backends.anyprec.__file__).parent / "kernels" / "compiled.py"
    spec = importlib.util.spec_from_file_location("compiled", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


compiled = load()


class Compiler:
    """Counts what it is asked for and makes a text of it."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Sequence[str], str]] = []

    def __call__(self, file: str, texts: dict[str, str], options: Sequence[str], arch: str) -> bytes:
        self.asked.append((file, options, arch))
        return f"{file} {options} {arch} {sorted(texts)}".encode() * 100


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Compiler:
    made = Compiler()
    monkeypatch.setattr(compiled, "_compile", made)
    monkeypatch.setattr(compiled, "compiler_version", lambda: (13, 0))
    return made


def test_a_kernel_is_compiled_once_for_its_options_and_architecture(compiler: Compiler, tmp_path: Path) -> None:
    first = compiled.binary("gemm", ("A=1",), "sm_90a", folder=tmp_path)
    assert compiled.binary("gemm", ("A=1",), "sm_90a", folder=tmp_path) == first
    assert len(compiler.asked) == 1
    compiled.binary("gemm", ("A=2",), "sm_90a", folder=tmp_path)
    compiled.binary("gemm", ("A=1",), "sm_80", folder=tmp_path)
    assert len(compiler.asked) == 3


@pytest.mark.parametrize(
    "damage", [lambda whole: whole[:-1], lambda whole: whole[:40] + b"x" + whole[41:], lambda _: b""]
)
def test_a_damaged_entry_is_compiled_again_and_mended(compiler: Compiler, tmp_path: Path, damage: object) -> None:
    assert callable(damage)
    first = compiled.binary("gemm", (), "sm_90a", folder=tmp_path)
    (entry,) = tmp_path.iterdir()
    entry.write_bytes(damage(entry.read_bytes()))
    assert compiled.binary("gemm", (), "sm_90a", folder=tmp_path) == first
    assert compiled.binary("gemm", (), "sm_90a", folder=tmp_path) == first
    assert len(compiler.asked) == 2


def test_another_compiler_makes_another_entry(
    compiler: Compiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled.binary("gemm", (), "sm_90a", folder=tmp_path)
    monkeypatch.setattr(compiled, "compiler_version", lambda: (13, 1))
    compiled.binary("gemm", (), "sm_90a", folder=tmp_path)
    assert len(compiler.asked) == 2
    assert len(list(tmp_path.iterdir())) == 2


def test_a_folder_that_cannot_be_written_costs_only_time(compiler: Compiler, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for _ in range(2):
        assert compiled.binary("gemm", (), "sm_90a", folder=tmp_path / "file" / "cache")
    assert len(compiler.asked) == 2


def test_an_old_gpu_is_refused_with_what_it_has_and_what_is_needed() -> None:
    with pytest.raises(compiled.KernelError, match=r"capability 7\.5.*8\.0"):
        compiled.architecture((7, 5))
    assert [compiled.architecture(each) for each in ((8, 9), (9, 0), (12, 0))] == ["sm_89", "sm_90a", "sm_120a"]
