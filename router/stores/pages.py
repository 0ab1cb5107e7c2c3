"""Balances in memory, many scopes on one page, so that they are quick to store and to read. Pure.

What is stored is a page: a fixed part of all scopes, drawn by a checksum of their names. With a hundred thousand
tenants a row for each would cost more than all else that a request asks of the file. Fails nowhere.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import NamedTuple
from zlib import crc32

import msgspec

PAGES = 8_192

_PAIR, _SLOT = struct.Struct("<qq"), struct.Struct("<q")
PAIR, _pack, _pairs, _oldest = _PAIR.size, _PAIR.pack, _PAIR.iter_unpack, _SLOT.unpack_from

LineKey = tuple[str, str, str, str, str]  # day, tenant, team, key, model
Line = list[int]  # requests, prompt tokens, completion tokens, cost; empty where it has left its page


class Meter(msgspec.Struct, array_like=True, gc=False):
    """What one counter has counted."""

    slot: int = 0
    total: int = 0  # sum over all slots that count
    held: int = 0
    now: int = 0  # what `slot` has counted
    ring: bytes = b""  # the slots before it, each with what it has counted, as `ringed` packs them; oldest first

    def roll(self, slot: int, keep: int) -> None:
        """Forget what is more than `keep` slots before `slot`. Time never runs backwards."""
        before = self.slot
        if slot <= before:
            return
        first, ring = slot - keep, self.ring
        if before < first:
            self.total, self.ring = 0, b""
        else:
            if ring and _oldest(ring)[0] < first:
                self.ring = ring = self._forget(first)
            if self.now:
                self.ring = ring + _pack(before, self.now)
        self.now = 0
        self.slot = slot

    def _forget(self, first: int) -> bytes:
        """What is left of the ring from this slot on."""
        gone = 0
        for slot, amount in _pairs(self.ring):
            if slot >= first:
                break
            self.total -= amount
            gone += PAIR
        return self.ring[gone:]

    def count(self, slot: int, keep: int, amount: int) -> None:
        """Add to a slot."""
        if slot > self.slot:
            self.roll(slot, keep)
        if slot == self.slot:
            self.now += amount
        else:
            self._add(slot, amount)
        self.total += amount

    def correct(self, slot: int, amount: int) -> None:
        """Add to a slot if it still counts."""
        if slot == self.slot:
            self.now += amount
        elif any(slot == known for known, _ in _pairs(self.ring)):
            self._add(slot, amount)
        else:
            return
        self.total += amount

    def _add(self, slot: int, amount: int) -> None:
        """Add to one of the slots before the newest."""
        known = dict(_pairs(self.ring))
        known[slot] = known.get(slot, 0) + amount
        self.ring = ringed(known)

    def counted(self) -> Iterator[tuple[int, int]]:
        """Slots and what they have counted, oldest first."""
        yield from _pairs(self.ring)
        yield self.slot, self.now


def ringed(counted: Mapping[int, int]) -> bytes:
    """A ring of these slots."""
    return b"".join([_pack(slot, amount) for slot, amount in sorted(counted.items())])


Account = dict[str, Meter]  # what one scope has counted, by the names of its meters


class Page:
    """Scopes, and what their keys spent on days that are not over."""

    __slots__ = ("accounts", "at", "lines", "number", "since")

    def __init__(self, number: int, at: int, accounts: dict[str, Account], lines: dict[LineKey, Line]) -> None:
        self.number, self.accounts, self.lines = number, accounts, lines
        self.at = at  # position it was stored at: what the journal says up to there is in it
        self.since = 0  # position of the first change that is not stored; 0: it is stored as it is


class Stored(NamedTuple):
    """A page as the file keeps it."""

    number: int
    at: int
    accounts: bytes
    lines: bytes


_encode = msgspec.msgpack.Encoder().encode
_accounts_in = msgspec.msgpack.Decoder(dict[str, Account]).decode
_lines_in = msgspec.msgpack.Decoder(list[tuple[LineKey, Line]]).decode


def page_of(scope: str) -> int:
    """Number of the page of a scope."""
    return crc32(scope.encode()) % PAGES


def as_stored(page: Page, at: int) -> Stored:
    """A page as it is at this position."""
    return Stored(page.number, at, _encode(page.accounts), _encode(list(page.lines.items())) if page.lines else b"")


def as_read(stored: Stored) -> Page:
    """The page that was stored."""
    return Page(stored.number, stored.at, _accounts_in(stored.accounts), lines_in(stored.lines))


def lines_in(body: bytes) -> dict[LineKey, Line]:
    """The spend lines of a stored page."""
    return dict(_lines_in(body)) if body else {}


def take_old_lines(page: Page, day: str) -> Iterator[tuple[LineKey, Line]]:
    """Remove the lines of days before this one."""
    for key in [key for key in page.lines if key[0] < day]:
        line = page.lines.pop(key)
        yield key, list(line)
        line.clear()  # whoever still has it sees that it has left
