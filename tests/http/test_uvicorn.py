"""What router/http/connections.py takes for granted of uvicorn; a release that moves it fails here, not in service."""

from __future__ import annotations

import asyncio
import inspect
import tomllib
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from packaging.requirements import Requirement
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from router.http.connections import CONNECTION, CONNECTIONS, Connection, OldConnection, Patient
from router.http.head_limits import Connections, HeadLimits

pytestmark = pytest.mark.anyio
PUBLIC = {"connection_made", "connection_lost", "data_received", "pause_writing", "resume_writing"}  # asyncio's own
CALLED = {"send_400_response"}  # of httptools' protocol, where its parser cannot go on


class Wire(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__({"peername": ("192.0.2.1", 4000), "sockname": ("192.0.2.2", 80)})
        self.written = b""
        self.closed = False

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def close(self) -> None:
        self.closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Says what state its request has."""
    body = ",".join(sorted(scope["state"])).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


def opened(kind: Any = Connection) -> tuple[Any, Wire]:
    config = uvicorn.Config(app, lifespan="off", log_config=None)
    config.load()
    state = {CONNECTIONS: Connections(HeadLimits())}
    protocol = kind(config=config, server_state=ServerState(), app_state=state, _loop=asyncio.get_running_loop())
    wire = Wire()
    protocol.connection_made(wire)
    return protocol, wire


@pytest.mark.parametrize("ours", [Connection, OldConnection])
def test_only_asyncios_own_methods_are_overridden_and_the_one_that_refuses(ours: type[Any]) -> None:
    uvicorns = {name for base in ours.__mro__ if not base.__module__.startswith("router.") for name in vars(base)}
    mine = {name for base in ours.__mro__ if base.__module__.startswith("router.") for name in vars(base)}
    overridden = {name for name in mine & uvicorns if not name.startswith("__")}
    assert overridden <= PUBLIC | (CALLED if ours is Connection else set())


async def test_where_the_parser_cannot_go_on_uvicorn_asks_for_the_refusal() -> None:
    protocol, wire = opened()
    protocol.data_received(b"GET / HTTP/1.1\r\nhost a\r\n\r\n")
    assert wire.written.startswith(b"HTTP/1.1 400 ")
    assert b"invalid_http" in wire.written
    assert wire.closed


@pytest.mark.parametrize("base", [HttpToolsProtocol, H11Protocol])
def test_no_attribute_of_ours_is_one_of_uvicorns(base: type[Any]) -> None:
    source = inspect.getsource(inspect.getmodule(base) or base)
    ours = {name for each in (Patient, Connection, OldConnection) for name in each.__init__.__code__.co_names}
    ours = {name for name in ours if name.startswith("_") and not name.startswith("__")} | {"heard_at"}
    assert len(ours) > 5
    assert not [name for name in ours if f"self.{name}" in source]


async def test_a_protocol_is_made_with_these_four_and_its_state_is_the_requests() -> None:
    assert list(inspect.signature(HttpToolsProtocol).parameters) == ["config", "server_state", "app_state", "_loop"]
    assert list(inspect.signature(H11Protocol).parameters) == ["config", "server_state", "app_state", "_loop"]
    protocol, wire = opened()
    protocol.data_received(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
    await asyncio.sleep(0.01)
    assert wire.written.endswith(f"{CONNECTION},{CONNECTIONS}".encode())


async def test_a_client_of_http_1_0_is_served_by_the_protocol_that_knows_no_chunks() -> None:
    protocol, wire = opened()
    served: list[Any] = []
    wire.set_protocol = served.append  # type: ignore[method-assign, assignment]
    protocol.data_received(b"GET / HTTP/1.0\r\n\r\n")
    await asyncio.sleep(0.01)
    assert isinstance(served[0], OldConnection)
    assert wire.written.startswith(b"HTTP/1.1 200 ")


def test_the_release_that_runs_is_within_the_bound() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    wanted = [Requirement(line) for line in project["dependencies"]]
    bound = next(each.specifier for each in wanted if each.name == "uvicorn")
    assert bound.contains(uvicorn.__version__)
    assert any(clause.operator == "<" for clause in bound)
