"""Files that a LiteLLM file includes, read into it: lists go on, mappings are laid over those of the file.

LiteLLM lets an included mapping take the place of the file's own. Here both hold, so that no limit is lost.
How it fails: a file that cannot be read, or includes itself, is a SettingsError.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from router.errors import SettingsError
from router.settings import source

DEEPEST = 8  # files that include files
MOST_FILES = 100  # that are watched
_PLACE = re.compile(r"model_list\[\d+\]")


def with_included(tree: dict[str, Any], path: Path, *, depth: int = 0) -> tuple[dict[str, Any], dict[str, str]]:
    """(the whole of a file, the place in another file of each model it has from there: model_list[3] -> …).

    Other files than LiteLLM's are left as they are. Raises: SettingsError.
    """
    if not _includes(tree):
        return tree, {}
    names = tree["include"]
    if not isinstance(names, list) or not all(isinstance(each, str) for each in names):
        raise SettingsError(f"include: got {str(names)[:80]!r}, expected a list of files", param="include")
    if depth >= DEEPEST:
        raise SettingsError(f"include: {path} is included by {depth} files in a row", param="include")
    whole = {key: value for key, value in tree.items() if key != "include"}
    places: dict[str, str] = {}
    for name in names:
        file = path.absolute().parent / name
        more, inner = with_included(source.read(file), file, depth=depth + 1)
        before = _models_in(whole)
        for number in range(_models_in(more)):
            own = f"model_list[{number}]"
            places[f"model_list[{before + number}]"] = inner.get(own, f"{name}: {own}")
        for key, value in more.items():
            whole[key] = _joined(whole.get(key), value)
    return whole, places


def files_of(path: Path) -> tuple[Path, ...]:
    """A settings file and all that it includes, those too that cannot be read now. Never raises."""
    found: list[Path] = []
    waiting = [path]
    while waiting and len(found) < MOST_FILES:
        file = waiting.pop(0)
        if file not in found:
            found.append(file)
            with suppress(Exception):  # foreign text: whoever takes it in says what is wrong
                tree = source.read(file)
                waiting += [file.absolute().parent / name for name in tree["include"]] if _includes(tree) else []
    return tuple(found)


def in_own_files(text: str, places: Mapping[str, str]) -> str:
    """What is said of a whole file, with the places where its models stand."""
    return _PLACE.sub(lambda match: places.get(match[0], match[0]), text) if places else text


def _models_in(tree: Mapping[str, Any]) -> int:
    listed = tree.get("model_list")
    return len(listed) if isinstance(listed, list) else 0


def _includes(tree: Mapping[str, Any]) -> bool:
    return "include" in tree and "models" not in tree and "backends" not in tree


def _joined(mine: Any, more: Any) -> Any:
    if isinstance(mine, list) and isinstance(more, list):
        return [*mine, *more]
    return {**mine, **more} if isinstance(mine, dict) and isinstance(more, dict) else more
