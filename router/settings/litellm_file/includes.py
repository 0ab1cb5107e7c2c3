"""Files that a LiteLLM file includes, read into it: lists go on, mappings are laid over those of the file.

LiteLLM lets an included mapping take the place of the file's own. Here both hold, so that no limit is lost.
How it fails: a file that cannot be read, or includes itself, is a SettingsError.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from router.errors import SettingsError
from router.settings import source

DEEPEST = 8  # files that include files


def with_included(tree: dict[str, Any], path: Path, *, depth: int = 0) -> dict[str, Any]:
    """The whole of a file. Other files than LiteLLM's are left as they are. Raises: SettingsError."""
    if "include" not in tree or "models" in tree or "backends" in tree:
        return tree
    names = tree["include"]
    if not isinstance(names, list) or not all(isinstance(each, str) for each in names):
        raise SettingsError(f"include: got {str(names)[:80]!r}, expected a list of files", param="include")
    if depth >= DEEPEST:
        raise SettingsError(f"include: {path} is included by {depth} files in a row", param="include")
    whole = {key: value for key, value in tree.items() if key != "include"}
    for name in names:
        file = path.absolute().parent / name
        for key, value in with_included(source.read(file), file, depth=depth + 1).items():
            whole[key] = _joined(whole.get(key), value)
    return whole


def _joined(mine: Any, more: Any) -> Any:
    if isinstance(mine, list) and isinstance(more, list):
        return [*mine, *more]
    return {**mine, **more} if isinstance(mine, dict) and isinstance(more, dict) else more
