"""An environment of its own for each client, made once and kept under .cache/clients.

How it fails: where a registry cannot be reached, CannotInstall holds what the installer said.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

CACHE = Path(__file__).parents[2] / ".cache" / "clients"


class CannotInstall(RuntimeError):
    """A client could not be installed here."""


def python_of(packages: Sequence[str]) -> Path:
    """A Python with these packages from PyPI."""
    folder = _folder("python", packages)
    python = folder / "bin" / "python"
    if not (folder / ".done").exists():
        shutil.rmtree(folder, ignore_errors=True)
        _run([sys.executable, "-m", "venv", str(folder)])
        _run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages])
        (folder / ".done").touch()
    return python


def source_of(python: Path, package: str) -> Path:
    """The source distribution of the version of a package that this Python has, unpacked beside it."""
    folder = python.parents[1] / "source"
    if not (folder / ".done").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        said = "import importlib.metadata, sys; print(importlib.metadata.version(sys.argv[1]))"
        done = subprocess.run([str(python), "-c", said, package], capture_output=True, text=True, check=True)
        wanted = f"{package}=={done.stdout.strip()}"
        quiet = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-binary", package, "--dest", str(folder)]
        _run([str(python), "-m", "pip", "download", *quiet, wanted])
        for archive in folder.glob("*.tar.gz"):
            with tarfile.open(archive) as packed:
                packed.extractall(folder, filter="data")
        (folder / ".done").touch()
    return next(each for each in folder.iterdir() if each.is_dir())


def node_of(packages: Sequence[str]) -> Path:
    """A folder with these packages from npm in node_modules."""
    if shutil.which("npm") is None:
        raise CannotInstall("npm is not here")
    folder = _folder("node", packages)
    if not (folder / ".done").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        _run(["npm", "install", "--prefix", str(folder), "--silent", "--no-fund", "--no-audit", *packages])
        (folder / ".done").touch()
    return folder


def _folder(kind: str, packages: Sequence[str]) -> Path:
    name = packages[0].replace("/", "-").replace("@", "").partition("=")[0]
    return CACHE / f"{kind}-{name}-{hashlib.sha256(' '.join(packages).encode()).hexdigest()[:8]}"


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "CI": "1"})
    if done.returncode:
        raise CannotInstall(f"{' '.join(command[:6])} …: {(done.stderr or done.stdout)[-600:]}")
