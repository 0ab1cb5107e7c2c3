"""The way to Redis: scripts by digest, pipelined by the turn of the event loop. Fails closed.

Everything called within one turn of the loop travels in one write on one connection (of a cluster: in one pipeline of
redis-py, which knows its nodes). A Redis that does not answer within the timeout, is loading or has lost its master is
StoreUnavailable. Nothing is tried twice here but a script that Redis did not know.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Sequence
from importlib.resources import files
from typing import Any, Protocol
from urllib.parse import parse_qs, urlsplit, urlunsplit

from hiredis import ReplyError
from redis import asyncio as aioredis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, OutOfMemoryError

from router.errors import SettingsError, StoreUnavailable
from router.stores.redis.wire import AWAY, Argument, Wire

TIMEOUT_S = 2.0
CONNECTIONS = 64
PREFIX = "{pointsman}"
SCRIPTS = {  # name -> what it begins with
    **dict.fromkeys(("reserve", "settle", "mark", "restore", "tend", "balance"), ("prelude",)),
    **dict.fromkeys(("log", "judge"), ("prelude", "entries")),
    "put": ("prelude",),
    **dict.fromkeys(("keep", "forget"), ("prelude", "answers")),
}
# Errors that say how Redis is, not what it was asked; the next try may do.
PASSING = re.compile(
    r"\b(OOM|READONLY|LOADING|MASTERDOWN|NOAUTH|NOPERM|BUSY|TRYAGAIN|CLUSTERDOWN|MISCONF|NOREPLICAS|MOVED|ASK|NOSCRIPT)\b"
    r"|can't run this command"
)


class ScriptRejected(StoreUnavailable):
    """A script refused its arguments or failed: nothing was written, and asking the same again is of no use."""


def script(name: str) -> str:
    """The text of a script, with what it begins with."""
    folder = files("router.stores.redis") / "lua"
    return "\n".join((folder / f"{part}.lua").read_text() for part in (*SCRIPTS[name], name))


class Carrier(Protocol):
    """Takes commands to Redis, in the order in which they are asked."""

    def ask(self, words: tuple[Argument, ...]) -> asyncio.Future[Any]:
        """The reply, or an error as a value where Redis refused. The future may raise StoreUnavailable."""

    async def aclose(self) -> None:
        """Hang up."""


class Pipelines:
    """A Carrier by redis-py's own pipelines, for a cluster: it follows a slot from node to node."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._waiting: list[tuple[tuple[Argument, ...], asyncio.Future[Any]]] = []
        self._running: set[asyncio.Task[None]] = set()

    def ask(self, words: tuple[Argument, ...]) -> asyncio.Future[Any]:
        """As Carrier.ask; everything asked in one turn of the loop shares a pipeline."""
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        if not self._waiting:
            loop.call_soon(self._send)
        self._waiting.append((words, future))
        return future

    async def aclose(self) -> None:
        """Let what is under way end."""
        await asyncio.gather(*self._running, return_exceptions=True)

    def _send(self) -> None:
        batch, self._waiting = self._waiting, []
        task = asyncio.get_running_loop().create_task(self._deliver(batch))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _deliver(self, batch: list[tuple[tuple[Argument, ...], asyncio.Future[Any]]]) -> None:
        pipeline = self._client.pipeline(transaction=False)
        try:
            for words, _ in batch:
                pipeline.execute_command(*words)
            answers = await pipeline.execute(raise_on_error=False)
        except Exception as error:  # whatever it is, nobody may wait for ever
            answers = [error] * len(batch)
        for (_, future), answer in zip(batch, answers, strict=True):
            if not future.done():
                future.set_result(answer)


class Link:
    """One Redis and the scripts in it. `prefix` is the hash tag that keeps every key in one slot."""

    def __init__(self, client: Any, carrier: Carrier, *, prefix: str = PREFIX, watchers: Sequence[Any] = ()) -> None:
        self.client, self.prefix = client, prefix
        self._carrier = carrier
        self._watchers = watchers  # sentinels
        self._scripts = {name: script(name) for name in SCRIPTS}
        digests = {name: hashlib.sha1(text.encode()).hexdigest() for name, text in self._scripts.items()}
        self._heads = {name: ("EVALSHA", digest, 1, prefix) for name, digest in digests.items()}

    async def call(self, name: str, *arguments: Argument) -> Any:
        """What a script returns. Raises: StoreUnavailable."""
        found = await self._carrier.ask((*self._heads[name], *arguments))
        if _is_unknown(found):  # it never ran: Redis is new or has restarted
            found = await self._carrier.ask(("EVAL", self._scripts[name], 1, self.prefix, *arguments))
        if isinstance(found, Exception):
            raise away(found)
        return found

    async def command(self, *words: Argument) -> Any:
        """What a command returns; hashes may come as dicts or flat, see `fields_of`. Raises: StoreUnavailable."""
        found = await self._carrier.ask(words)
        if isinstance(found, Exception):
            raise away(found)
        return found

    async def wait(self, *words: Argument) -> Any:
        """As `command` for one that blocks: on a connection of its own. Raises: StoreUnavailable.

        It runs in a task of its own, which may end later than who is cancelled. For redis-py before 7.2 looks for stray
        bytes within a timeout of zero seconds, and loses a cancellation that comes then.
        """
        asked = asyncio.ensure_future(self.client.execute_command(*words))
        try:
            return await asyncio.shield(asked)
        except asyncio.CancelledError:
            asked.add_done_callback(lambda late: late.cancelled() or late.exception())  # nobody hears of it
            asked.cancel()
            raise
        except AWAY as error:
            raise away(error) from error

    async def aclose(self) -> None:
        """Close the connections."""
        await self._carrier.aclose()
        for client in (self.client, *self._watchers):
            await client.aclose()


def _is_unknown(reply: object) -> bool:
    """Whether Redis does not have the script, as redis-py or as hiredis says it."""
    return isinstance(reply, NoScriptError) or (isinstance(reply, ReplyError) and str(reply).startswith("NOSCRIPT"))


def fields_of(found: Any) -> dict[bytes, bytes]:
    """The fields of a hash or a stream's entry: redis-py and RESP 3 give a dict, RESP 2 names and values in turn."""
    return found if isinstance(found, dict) else dict(zip(found[::2], found[1::2], strict=True))


def away(error: Exception) -> StoreUnavailable:
    """The same, in the gateway's terms."""
    text = str(error)
    is_rejected = "REFUSED " in text or "user_script" in text
    if is_rejected and PASSING.search(text) is None and not isinstance(error, OutOfMemoryError):
        return ScriptRejected(f"Redis refused: {text}")
    return StoreUnavailable(f"Redis is away: {type(error).__name__}: {error}")


EXPECTED = "expected sqlite:///PATH or redis://[:PASSWORD@]HOST[:PORT][/DB]"


def connect(url: str) -> Link:
    """The way to redis://, rediss://, unix://, redis+cluster:// or redis+sentinel://HOST,…/MASTER.

    The query may set `prefix`, `pool` (connections) and `timeout_s`; what `open_stores` reads is left to it.
    Raises: SettingsError, which shows nothing of the address: a password may stand anywhere in it.
    """
    try:
        return _connected(url)
    except ValueError:
        raise SettingsError(f"the address of the store is none: {EXPECTED}", param="store.redis") from None


def _connected(url: str) -> Link:
    parts = urlsplit(url)
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    for name in ("outbox", "log_entries", "audit_entries", "eviction", "conversations", "conversation_ms"):
        query.pop(name, None)
    prefix = query.pop("prefix", PREFIX)
    if not (prefix.startswith("{") and "}" in prefix):
        raise SettingsError(f"prefix is {prefix!r}; it must begin with a hash tag like {PREFIX}", param="store.prefix")
    pool, timeout_s = int(query.pop("pool", CONNECTIONS)), float(query.pop("timeout_s", TIMEOUT_S))
    options: dict[str, Any] = {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s}
    if parts.scheme == "redis+sentinel":
        return _by_sentinel(url, options, pool=pool, prefix=prefix)
    plain = urlunsplit(parts._replace(query="&".join(f"{k}={v}" for k, v in query.items())))
    if parts.scheme == "redis+cluster":
        cluster = plain.replace("redis+cluster://", "redis://", 1)
        nodes = aioredis.RedisCluster.from_url(cluster, max_connections=pool, **options)
        return Link(nodes, Pipelines(nodes), prefix=prefix)
    if parts.scheme not in ("redis", "rediss", "unix"):
        raise SettingsError(f"cannot open a store of this kind: {EXPECTED}", param="store.redis")
    options["retry"] = Retry(NoBackoff(), 0)
    connections = aioredis.BlockingConnectionPool.from_url(plain, max_connections=pool, timeout=timeout_s, **options)
    return Link(aioredis.Redis.from_pool(connections), Wire(connections, timeout_s=timeout_s), prefix=prefix)


def _by_sentinel(url: str, options: dict[str, Any], *, pool: int, prefix: str) -> Link:
    parts = urlsplit(url)
    hosts = [host.partition(":") for host in parts.netloc.rpartition("@")[2].split(",")]
    master = parts.path.strip("/")
    if not master:
        raise SettingsError("no master is named, expected redis+sentinel://HOST:PORT,…/MASTER", param="store.redis")
    addresses = [(host, int(port or 26379)) for host, _, port in hosts]
    sentinel = aioredis.Sentinel(addresses, **options)  # type: ignore[no-untyped-call]  # redis-py types it later
    client = sentinel.master_for(master, max_connections=pool, retry=Retry(NoBackoff(), 0), **options)
    wire = Wire(client.connection_pool, timeout_s=options["socket_timeout"])
    return Link(client, wire, prefix=prefix, watchers=sentinel.sentinels)
