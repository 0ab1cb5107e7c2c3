"""Where the gateway listens, how much it takes in, and how it stops."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from router.settings.scalars import Bytes, Positive, Seconds
from router.terms import Section


class Lag(Section):
    """How far a worker's event loop may be behind before new requests wait."""

    lag_s: Seconds = Field(default=1.0, description="How late the loop may wake; beyond it new requests wait.")
    waiting: Positive = Field(default=1_024, description="How many may wait; beyond it the answer is 503.")
    wait_s: Seconds = Field(default=30.0, description="How long one may wait; beyond it the answer is 503.")


class Server(Section):
    """Where the gateway listens and how much it takes in."""

    host: str = Field(default="127.0.0.1", description="Address to listen on; 0.0.0.0 in a container.")
    port: int = Field(default=8080, ge=0, le=65_535, description="Port; 0 takes a free one and prints it.")
    workers: int = Field(default=1, ge=1, le=256, description="Worker processes sharing the port.")
    max_head_bytes: Annotated[Bytes, Field(ge=1024)] = Field(
        default=64 * 2**10, description="Longest head of a request; beyond it the answer is 431."
    )
    max_headers: Positive = Field(default=100, description="Headers of a request; beyond it the answer is 431.")
    head_s: Seconds = Field(default=10.0, description="How long a head may take to come; beyond it the answer is 408.")
    max_body_bytes: Bytes = Field(default=16 * 2**20, description="Largest request body; beyond it the answer is 413.")
    body_s: Seconds = Field(
        default=10.0, description="How long a body may take to come, beside what its rate allows; beyond it: 408."
    )
    body_bytes_per_s: Positive = Field(
        default=1024, description="The slowest rate of a body: each so many bytes give it a second more."
    )
    idle_s: Seconds = Field(
        default=75.0,
        description="How long a connection may do nothing after a request, and before its first where that is below "
        "`head_s`. Longer than clients and proxies keep theirs, so that they never ask on one that is being closed; "
        "those at rest make room where the limit of connections is reached.",
    )
    stalled_s: Seconds = Field(
        default=60.0, description="How long a client may take nothing of what it is sent before it is cut off."
    )
    max_connections: Positive = Field(
        default=8_192, description="Connections to one worker at once; beyond it, with none at rest, the answer is 503."
    )
    max_connections_per_address: Positive | None = Field(
        default=None, description="The same from one address; null is no cap, for behind a proxy all have the proxy's."
    )
    lag: Lag = Field(default_factory=Lag, description="When new requests wait, so that open answers go on.")
    cors_origins: tuple[str, ...] = Field(
        default=(), description="Origins whose pages may call the gateway, e.g. ['https://app.example']; '*' is all."
    )
    grace_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        default=5.0,
        description="How long SIGTERM only makes it not ready: requests are served while others learn of it. Ctrl-C "
        "and a second signal do not wait.",
    )
    drain_s: Seconds = Field(
        default=30.0, description="How long open answers may then finish; a stream cut at the end has an error event."
    )
    longest_s: Seconds = Field(default=600.0, description="No request is served for longer than this.")
