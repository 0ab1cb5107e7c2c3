"""Balances as earlier versions stored them: a row for each scope, with a position in each meter. Pure."""

from __future__ import annotations

import msgspec

from router.stores.pages import Account, Meter, ringed


class _Meter(msgspec.Struct, array_like=True):
    seq: int
    slot: int
    total: int
    held: int
    ring: dict[int, int]
    now: int = 0  # before there was this, the ring had what `slot` has counted


_meters_in = msgspec.msgpack.Decoder(dict[str, _Meter]).decode
_rows_in = msgspec.msgpack.Decoder(list[tuple[str, int, int, int, int, list[tuple[int, int]]]]).decode


def account_of(body: bytes) -> tuple[Account, int]:
    """The account, and the position up to which it knows the journal."""
    if body[0] >> 4 == 0x8 or body[0] in (0xDE, 0xDF):  # a map; rows before that
        meters = _meters_in(body)
    else:
        meters = {row[0]: _Meter(*row[1:5], ring=dict(row[5])) for row in _rows_in(body)}
    return {name: _meter(earlier) for name, earlier in meters.items()}, max((m.seq for m in meters.values()), default=0)


def _meter(earlier: _Meter) -> Meter:
    ring = dict(earlier.ring)
    now = earlier.now + ring.pop(earlier.slot, 0)
    return Meter(earlier.slot, earlier.total, earlier.held, now, ringed(ring))
