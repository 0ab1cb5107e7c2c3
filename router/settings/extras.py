"""Optional parts of the package: which are installed, and the line that installs those that are not, here."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path

HOME = Path(__file__).resolve().parents[2]
EXTRAS: Mapping[str, tuple[str, str]] = {  # name -> what it imports, what it is for; see pyproject.toml
    "providers": ("litellm", "providers that litellm knows"),
    "static": ("model2vec", "static word vectors as embedder"),
    "sentence": ("fastembed", "a sentence model as embedder"),
    "replay": ("pandas", "replay, tune, exports and their pictures"),
    "demo": ("openai", "pointsman demo"),
    "encryption": ("cryptography", "kept answers encrypted"),
    "import": ("psycopg", "taking over LiteLLM's database"),
    "otel": ("opentelemetry.sdk", "traces for OpenTelemetry"),
    "quantize": ("numba", "pointsman quantize"),
}


def missing(is_there: Callable[[str], object] | None = None) -> list[str]:
    """Extras that are not installed."""
    return [name for name, (module, _) in EXTRAS.items() if (is_there or _found)(module) is None]


def _found(module: str) -> object:
    """As find_spec, where a package above it is not there either."""
    try:
        return find_spec(module)
    except ModuleNotFoundError:
        return None


def install_line(
    extras: Iterable[str], *, target: str = "install", prefix: str = sys.prefix, has_pip: bool | None = None
) -> str:
    """The line that installs them here: by make in a checkout with an environment of its own, else by pip. `target` is
    the one of make, and "serve" goes on to serve."""
    names = ",".join(extras)
    if (HOME / "Makefile").is_file() and Path(prefix).resolve().is_relative_to(HOME):
        where = "" if Path.cwd() == HOME else f" -C {HOME}"
        return f"make{where} {target} EXTRAS={names}"
    python = Path(prefix) / "bin" / "python"
    pip = f"{python} -m pip install" if _has_pip(has_pip) else f"uv pip install --python {python}"
    return f"{pip} 'pointsman[{names}]'"


def _has_pip(reported: bool | None) -> bool:
    return find_spec("pip") is not None if reported is None else reported


def command_name() -> str:
    """How this program is called from the folder one is in, e.g. `pointsman` or `.venv/bin/pointsman`."""
    own = Path(sys.prefix) / "bin" / "pointsman"
    if not own.exists():
        return f"{sys.executable} -m pointsman"
    found = shutil.which("pointsman")
    if found is not None and Path(found).resolve() == own.resolve():
        return "pointsman"
    return str(own.relative_to(Path.cwd())) if own.is_relative_to(Path.cwd()) else str(own)
