"""Redis by a model of it: the commands that the stores use, by the world's clock, and the very scripts in Lua.

What a disk or a replica still has is a copy of the data. An unknown command is an error, as in Redis; nothing expires.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from hiredis import ReplyError
from lupa import lua51

Word = bytes | str | int
FIRST, LAST = (-1, 0), (2**63, 0)


class SortedMembers(dict[bytes, float]):
    """A sorted set: members and their scores."""

    def in_order(self) -> list[tuple[float, bytes]]:
        """By score, then by name."""
        return sorted((score, member) for member, score in self.items())


class EntryStream(dict[tuple[int, int], list[bytes]]):
    """A stream: fields by id."""

    last = FIRST


class ModelRedis:
    """One server. `executed` is called after every script."""

    def __init__(self, now_us: Callable[[], int], *, executed: Callable[[], None] = lambda: None) -> None:
        self._now_us, self.executed = now_us, executed
        self.data: dict[bytes, Any] = {}
        self._runs = itertools.count(1)
        self.offset = 0  # grows with each command
        self.replica: int | None = None  # how far the one replica has acknowledged; None: there is none
        self.forked = ("", -1)  # the lineage it was promoted from, and its offset then
        self.restart()

    def restart(self, data: dict[bytes, Any] | None = None) -> None:
        """Another life, with what the disk has."""
        self.run = hashlib.sha1(f"run {next(self._runs)}".encode()).hexdigest()
        self.lineage, self.replica, self.forked = self.run, None, ("", -1)
        self.data = self.data if data is None else data

    def promote(self, data: dict[bytes, Any], offset: int) -> None:
        """A replica that had come so far takes its place."""
        earlier = self.lineage
        self.restart(data)
        self.offset, self.forked = offset, (earlier, offset)

    def now_ms(self) -> int:
        """By its clock."""
        return self._now_us() // 1000

    def copied(self) -> dict[bytes, Any]:
        """The data as they are now."""
        return {key: copy.copy(value) for key, value in self.data.items()}

    def execute(self, words: tuple[Word, ...]) -> Any:
        """The reply; an error as a value."""
        name, *rest = (each if isinstance(each, bytes) else str(each).encode() for each in words)
        try:
            if name == b"EVALSHA":
                return ReplyError("NOSCRIPT No matching script")
            found = self._script(rest) if name == b"EVAL" else self.command(name, rest)
        except ReplyError as error:
            found = error
        except lua51.LuaError as error:
            found = ReplyError(f"ERR {error} script: user_script")
        self.offset += 100
        if name == b"EVAL":
            self.executed()
        return found

    def command(self, name: bytes, rest: list[bytes]) -> Any:
        """Raises: ReplyError."""
        work = getattr(self, f"_{name.decode().lower()}", None)
        if work is None or name == b"SCRIPT":
            raise ReplyError(f"ERR unknown command {name!r}")
        return work(*rest)

    def _script(self, rest: list[bytes]) -> Any:
        text, count, *words = rest
        keys = int(count)
        return _machine().run(self, text, words[:keys], words[keys:])

    # the server

    def _time(self) -> list[bytes]:
        now = self._now_us()
        return [b"%d" % (now // 1_000_000), b"%d" % (now % 1_000_000)]

    def _info(self, section: bytes) -> bytes:
        lineage, forked = self.forked
        lines = {
            b"server": [f"run_id:{self.run}"],
            b"memory": ["maxmemory_policy:noeviction"],
            b"persistence": ["aof_enabled:1"],
            b"replication": [
                "role:master",
                *([f"slave0:ip=10.0.0.2,port=6379,state=online,offset={self.replica}"] * (self.replica is not None)),
                f"master_replid:{self.lineage}",
                f"master_replid2:{lineage or '0' * 40}",
                f"master_repl_offset:{self.offset}",
                f"second_repl_offset:{forked + 1 if forked >= 0 else -1}",
            ],
        }[section]
        return "\r\n".join(lines).encode() + b"\r\n"

    def _config(self, *_: bytes) -> list[bytes]:
        return [b"maxmemory-policy", b"noeviction"]

    # keys and strings

    def _exists(self, key: bytes) -> int:
        return int(key in self.data)

    def _del(self, *keys: bytes) -> int:
        return sum(self.data.pop(key, None) is not None for key in keys)

    def _expire(self, key: bytes, _: bytes) -> int:
        return int(key in self.data)

    def _get(self, key: bytes) -> bytes | None:
        found: bytes | None = self.data.get(key)
        return found

    def _set(self, key: bytes, value: bytes, *_: bytes) -> bytes:
        self.data[key] = value
        return b"OK"

    def _incr(self, key: bytes) -> int:
        return self._decrby(key, b"-1")

    def _decrby(self, key: bytes, less: bytes) -> int:
        value = int(self.data.get(key, b"0")) - int(less)
        self.data[key] = b"%d" % value
        return value

    # hashes

    def _hash(self, key: bytes) -> dict[bytes, bytes]:
        found: dict[bytes, bytes] = self.data.get(key, {})
        return found

    def _hset(self, key: bytes, *pairs: bytes) -> int:
        found = self.data.setdefault(key, {})
        before = len(found)
        found.update(zip(pairs[::2], pairs[1::2], strict=True))
        return len(found) - before

    def _hsetnx(self, key: bytes, name: bytes, value: bytes) -> int:
        return 0 if name in self._hash(key) else self._hset(key, name, value)

    def _hget(self, key: bytes, name: bytes) -> bytes | None:
        return self._hash(key).get(name)

    def _hmget(self, key: bytes, *names: bytes) -> list[bytes | None]:
        return [self._hash(key).get(name) for name in names]

    def _hgetall(self, key: bytes) -> list[bytes]:
        return [word for pair in self._hash(key).items() for word in pair]

    def _hdel(self, key: bytes, *names: bytes) -> int:
        found = self._hash(key)
        gone = sum(found.pop(name, None) is not None for name in names)
        if key in self.data and not found:
            del self.data[key]
        return gone

    def _hincrby(self, key: bytes, name: bytes, more: bytes) -> int:
        value = int(self._hash(key).get(name, b"0")) + int(more)
        if abs(value) >= 2**63:
            raise ReplyError("ERR increment or decrement would overflow")
        self._hset(key, name, b"%d" % value)
        return value

    # sorted sets

    def _zadd(self, key: bytes, *words: bytes) -> int:
        only_known = words[0] == b"XX"
        found = self.data.setdefault(key, SortedMembers())
        pairs = list(zip(words[only_known::2], words[1 + only_known :: 2], strict=True))
        found.update({member: float(score) for score, member in pairs if not only_known or member in found})
        return len(pairs)

    def _zincrby(self, key: bytes, more: bytes, member: bytes) -> bytes:
        found = self.data.setdefault(key, SortedMembers())
        found[member] = found.get(member, 0.0) + float(more)
        return b"%d" % found[member]

    def _zrem(self, key: bytes, member: bytes) -> int:
        return int(self.data.get(key, {}).pop(member, None) is not None)

    def _ordered(self, key: bytes) -> list[tuple[float, bytes]]:
        return SortedMembers.in_order(self.data.get(key, SortedMembers()))

    def _zrangebyscore(self, key: bytes, _: bytes, most: bytes, *more: bytes) -> list[bytes]:
        found = [(score, member) for score, member in self._ordered(key) if score <= float(most)]
        return _members(found[: int(more[-1])], with_scores=b"WITHSCORES" in more)

    def _zrevrange(self, key: bytes, first: bytes, last: bytes, *more: bytes) -> list[bytes]:
        return _members(self._ordered(key)[::-1][int(first) : int(last) + 1], with_scores=b"WITHSCORES" in more)

    def _zrangebylex(self, key: bytes, after: bytes, *more: bytes) -> list[bytes]:
        found = [member for _, member in self._ordered(key) if after == b"-" or member > after[1:]]
        return found[: int(more[-1])]

    # lists

    def _rpush(self, key: bytes, value: bytes) -> int:
        self.data.setdefault(key, []).append(value)
        return len(self.data[key])

    def _lpop(self, key: bytes, count: bytes) -> list[bytes] | None:
        found = self.data.get(key)
        if found is None:
            return None
        gone, left = found[: int(count)], found[int(count) :]
        if left:
            self.data[key] = left
        else:
            del self.data[key]
        return list(gone)

    # streams

    def _xadd(self, key: bytes, *words: bytes) -> bytes:
        fields = list(words[words.index(b"*") + 1 :])
        stream = self.data.setdefault(key, EntryStream())
        now_ms = self._now_us() // 1000
        last: tuple[int, int] = stream.last
        stream.last = (now_ms, 0) if now_ms > last[0] else (last[0], last[1] + 1)
        stream[stream.last] = fields
        return _id(stream.last)

    def _xlen(self, key: bytes) -> int:
        return len(self.data.get(key, ()))

    def _xdel(self, key: bytes, *ids: bytes) -> int:
        return sum(self.data[key].pop(_place(each), None) is not None for each in ids)

    def _xtrim(self, key: bytes, _: bytes, __: bytes, most: bytes) -> int:
        stream = self.data.get(key, {})
        gone = list(stream)[: max(0, len(stream) - int(most))]
        for each in gone:
            del stream[each]
        return len(gone)

    def _xrange(self, key: bytes, after: bytes, _: bytes, __: bytes, most: bytes) -> list[list[Any]]:
        return self._entries(key, FIRST if after == b"-" else _place(after[1:]), int(most))

    def _xread(self, *words: bytes) -> list[Any] | None:
        key, after = words[words.index(b"STREAMS") + 1 :]
        found = self._entries(key, _place(after), int(words[1]))
        return [[key, found]] if found else None

    def _entries(self, key: bytes, after: tuple[int, int], most: int) -> list[list[Any]]:
        stream = self.data.get(key, {})
        found = ([_id(each), fields] for each, fields in stream.items() if each > after)
        return list(itertools.islice(found, most))


def _members(found: list[tuple[float, bytes]], *, with_scores: bool) -> list[bytes]:
    if not with_scores:
        return [member for _, member in found]
    return [word for score, member in found for word in (member, b"%d" % score)]


def _id(place: tuple[int, int]) -> bytes:
    return b"%d-%d" % place


def _place(text: bytes) -> tuple[int, int]:
    ms, _, number = text.partition(b"-")
    return int(ms), int(number or 0)


class LuaMachine:
    """Runs scripts for whichever server asks, each compiled once."""

    def __init__(self) -> None:
        self._lua = lua51.LuaRuntime(encoding=None, unpack_returned_tuples=False)
        self._compiled: dict[bytes, Any] = {}
        self._server: ModelRedis
        shown = self._lua.globals()
        shown[b"redis"] = self._lua.table_from({b"call": self._call, b"pcall": self._pcall})
        shown[b"cjson"] = self._lua.table_from({b"decode": self._decode, b"encode": self._encode})

    def run(self, server: ModelRedis, text: bytes, keys: list[bytes], words: list[bytes]) -> Any:
        """What a script returns, as a reply."""
        work = self._compiled.get(text)
        if work is None:
            work = self._compiled[text] = self._lua.execute(b"return function(KEYS, ARGV)\n" + text + b"\nend")
        self._server = server
        return self._reply(work(self._lua.table_from(keys), self._lua.table_from(words)))

    def _call(self, name: bytes, *words: Any) -> Any:
        rest = [each if isinstance(each, bytes) else b"%d" % each for each in words]
        return self._value(self._server.command(name, rest))

    def _pcall(self, name: bytes, *words: Any) -> Any:
        try:
            return self._call(name, *words)
        except ReplyError as error:
            return self._lua.table_from({b"err": str(error).encode()})

    def _value(self, reply: Any) -> Any:
        if reply is None:
            return False
        return self._lua.table_from([self._value(each) for each in reply]) if isinstance(reply, list) else reply

    def _reply(self, value: Any) -> Any:
        if value is None or value is False:
            return None
        if isinstance(value, bytes | str):
            return value
        if isinstance(value, int | float):
            return int(value)
        return [self._reply(value[i]) for i in range(1, len(value) + 1)]

    def _decode(self, text: bytes) -> Any:
        return self._table(json.loads(text))

    def _table(self, value: Any) -> Any:
        if isinstance(value, list):
            return self._lua.table_from([self._table(each) for each in value])
        return value.encode() if isinstance(value, str) else value

    def _encode(self, value: Any) -> bytes:
        return json.dumps(value.decode() if isinstance(value, bytes) else value).encode()


@lru_cache(maxsize=1)
def _machine() -> LuaMachine:
    return LuaMachine()
