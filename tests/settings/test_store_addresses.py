"""An address of a store that the settings take is one that can be opened."""

from __future__ import annotations

import re

import pytest

from router.errors import SettingsError
from router.stores.redis.connection import connect
from tests.settings.conftest import Read


def test_every_kind_of_address_that_settings_name_is_one_that_the_store_knows(read: Read) -> None:
    with pytest.raises(SettingsError, match=r"store\.redis") as refused:
        read("store: {redis: 'http://somewhere'}")
    kinds = re.findall(r"[a-z+]+://", refused.value.message)
    assert len(kinds) == 5
    for kind in kinds:
        connect(f"{kind}host:6379/name" if kind != "unix://" else "unix:///run/redis.sock")


def test_an_address_that_no_store_knows_stops_the_start(read: Read) -> None:
    with pytest.raises(SettingsError, match=r"store\.redis"):
        read("store: {redis: 'rediss+sentinel://host:26379/name'}")


@pytest.mark.parametrize("port", ["0", "65536", "99999", "x"])
def test_a_port_that_there_is_not_stops_the_start(read: Read, port: str) -> None:
    with pytest.raises(SettingsError, match=r"store\.redis.*a port of 1 to 65535"):
        read(f"store: {{redis: 'redis://host:{port}/0'}}")
