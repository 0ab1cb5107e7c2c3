"""What is printed when a gateway is up: what to try, what it can do, where its state lies, and what is missing."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from router.catalogue.probing import EngineProbe
from router.settings import Settings
from router.settings.engine_sections import EmbeddedSection
from router.settings.extras import command_name, install_line, missing
from router.types import Principal

MOST_NAMES = 8
ANYBODY = "Say hello in French."
_INDENT = "           "


@dataclass(frozen=True, slots=True)
class Welcome:
    """What is known once it answers."""

    url: str
    settings: Settings
    config: Path | None  # the settings file
    key: str | None  # that was made at the first start
    names: Sequence[str]  # of models
    engines: Sequence[EngineProbe]  # asked just now

    def text(self) -> str:
        """As it is printed."""
        lines = "\n".join([f"  {name:<8} {text}" for name, text in self._lines()])
        return f"\nPointsman is up at {self.url}\n{lines}\n\n{self.curl()}\n"

    def _lines(self) -> Iterator[tuple[str, str]]:
        yield "try", f"{self.url} in a browser, the line below, {self.url}/docs"
        yield "models", self._models()
        if is_packaged(self.settings):
            yield "they do", f"\n{_INDENT}".join(abilities())
        for engine in self.engines:
            if engine.why:
                yield "engine", f"{engine}; its models are passed over until it answers"
        yield "key", self._key()
        yield "state", str(self.settings.state_dir)
        if absent := missing():
            yield "extras", f"not installed: {', '.join(absent)}\n{_INDENT}{install_line(absent, target='serve')}"

    def _models(self) -> str:
        shown, rest = self.names[:MOST_NAMES], len(self.names) - MOST_NAMES
        return f"{', '.join(shown)}{f' and {rest} more: GET /v1/models' if rest > 0 else ''}"

    def _key(self) -> str:
        if not self.settings.auth.required:
            return f"none is needed; without one you are tenant {self.settings.auth.tenant}"
        if self.key is not None:
            return self.key
        if usable(self.settings):
            return f"of your settings file; the line below asks for one: {self._ask_for_key()}"
        return f"one of your own; {command_name()} keys create TENANT{self._config()} makes one: export KEY=sk-…"

    def _config(self) -> str:
        return "" if self.config is None else f" --config {shlex.quote(str(self.config))}"

    def _ask_for_key(self) -> str:
        return f"{command_name()} keys first{self._config()}"

    def curl(self) -> str:
        """A request to paste, that is answered."""
        secret = self.key or (f"$({self._ask_for_key()})" if usable(self.settings) else "$KEY")
        authorization = f' \\\n    -H "Authorization: Bearer {secret}"' if self.settings.auth.required else ""
        prompt = example() if is_packaged(self.settings) else ANYBODY
        body = json.dumps({"model": "auto", "messages": [{"role": "user", "content": prompt}]})
        return (
            f'  curl {self.url}/v1/chat/completions{authorization} \\\n    -H "Content-Type: application/json" \\\n'
            f"    -d {shlex.quote(body)}"
        )


def usable(settings: Settings) -> str | None:
    """A key of the settings file that is no admin's: the first one."""
    for each in settings.static_keys():
        if _is_plain(each.principal):
            return each.secret.get_secret_value()
    return None


def _is_plain(principal: Principal) -> bool:
    return not principal.admin


def is_packaged(settings: Settings) -> bool:
    """Whether the packaged models are all there is."""
    return all(isinstance(each, EmbeddedSection) and not each.stores for each in settings.backends.values())


def abilities() -> list[str]:
    """What the packaged models can do, in two lines."""
    skills = _skills()
    groups = ", ".join(dict.fromkeys(str(each["group"]).lower() for each in skills))
    return [
        f"{len(skills)} kinds of small task ({groups}), such as:",
        f"{' · '.join(each['example'] for each in skills if 'example' in each and len(each['example']) < 40)[:104]}…",
    ]


def example() -> str:
    """A prompt that one of them answers."""
    return next(str(each["example"]) for each in _skills() if "example" in each)


def _skills() -> list[dict[str, Any]]:
    text = files("router.http.page").joinpath("static", "skills.json").read_text(encoding="utf-8")
    found: list[dict[str, Any]] = json.loads(text)
    return found
