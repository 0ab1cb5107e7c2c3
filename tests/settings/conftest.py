"""Settings from YAML text, and the message of what is wrong with some."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from router.errors import SettingsError
from router.settings import Settings, build
from router.settings.listed import Listed
from router.settings.source import parse

Read = Callable[..., Settings]
Complain = Callable[..., str]
NOTHING: Mapping[str, str] = {}


@pytest.fixture
def read() -> Read:
    def read(text: str, *, env: Mapping[str, str] = NOTHING, listed: Mapping[str, Listed] | None = None) -> Settings:
        return build(parse(text), env, listed=(listed or {}).get)

    return read


@pytest.fixture
def complain(read: Read) -> Complain:
    def complain(text: str, *, env: Mapping[str, str] = NOTHING) -> str:
        with pytest.raises(SettingsError) as caught:
            read(text, env=env)
        return caught.value.message

    return complain
