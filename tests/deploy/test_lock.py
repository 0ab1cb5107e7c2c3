"""`uv.lock` comes from the public index alone and knows what pyproject.toml asks for."""

from __future__ import annotations

import re
import tomllib
from typing import Any
from urllib.parse import urlsplit

from tests.house.rules import ROOT

TEXT = (ROOT / "uv.lock").read_text(encoding="utf-8")
LOCK: dict[str, Any] = tomllib.loads(TEXT)
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
HOSTS = {"pypi.org", "files.pythonhosted.org"}


def test_every_source_is_the_public_index() -> None:
    assert {urlsplit(address).hostname for address in re.findall(r'"(\w+://[^"]*)"', TEXT)} <= HOSTS
    assert "file:" not in TEXT
    assert re.findall(r'"(?:/|\.\./)[^"]*"', TEXT) == []
    sources = [each["source"] for each in LOCK["package"] if each["name"] != "pointsman"]
    assert {tuple(source) for source in sources} == {("registry",)}


def test_every_file_has_its_hash() -> None:
    for each in LOCK["package"]:
        files = [*each.get("wheels", ()), *filter(None, [each.get("sdist")])]
        assert all(file["hash"].startswith("sha256:") for file in files), each["name"]


def test_it_was_made_from_this_pyproject() -> None:
    """`uv lock --no-config --default-index https://pypi.org/simple` makes it anew."""
    (own,) = [each for each in LOCK["package"] if each["name"] == "pointsman"]
    locked = {(each["name"], each.get("specifier", "")) for each in own["metadata"]["requires-dist"]}
    extras = PROJECT["optional-dependencies"].values()
    wanted = [*PROJECT["dependencies"], *(each for extra in extras for each in extra)]
    assert {_parsed(each) for each in wanted if not each.startswith("pointsman[")} == _sorted(locked)


def _parsed(requirement: str) -> tuple[str, str]:
    found = re.fullmatch(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?([^;]*)(;.*)?", requirement)
    assert found is not None, requirement
    return found[1].lower().replace("_", "-"), _order(found[2].strip())


def _sorted(locked: set[tuple[str, str]]) -> set[tuple[str, str]]:
    return {(name, _order(bounds)) for name, bounds in locked if name != "pointsman"}


def _order(bounds: str) -> str:
    return ",".join(sorted(bounds.replace(" ", "").split(",")))
