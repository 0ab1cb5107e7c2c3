"""A ledger that leaves alone what no budget and no limit bounds: for a gateway that only passes requests through.

Fails as the ledger it stands before does; where that is not asked, it cannot fail.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from router.ports import Leases, Ledger
from router.types import Balance, Budget, Hold, Offer, Reservation, Spend


class Unmetered:
    """Before any ledger: while `passes` says so, unbounded reservations get a hold that is kept nowhere."""

    def __init__(self, ledger: Ledger, leases: Leases, *, passes: Callable[[], bool]) -> None:
        self._ledger = ledger
        self._leases = leases
        self._passes = passes

    async def reserve(self, reservation: Reservation) -> Hold:
        """See Ledger.reserve."""
        offer = _unbounded(reservation) if self._passes() else None
        if offer is None:
            return await self._ledger.reserve(reservation)
        expires_at_ms = reservation.now_ms + reservation.ttl_ms
        return Hold(reservation.decision_id, offer.model, offer.worst, expires_at_ms, record=_NOWHERE)

    async def settle(self, hold: Hold, spend: Spend) -> None:
        """See Ledger.settle."""
        if hold.record is not _NOWHERE:
            await self._ledger.settle(hold, spend)

    async def balances(self, budgets: Sequence[Budget], now_ms: int) -> list[Balance]:
        """See Ledger.balances."""
        return await self._ledger.balances(budgets, now_ms)

    async def mark(self, hold: Hold) -> None:
        """See Leases.mark."""
        if hold.record is not _NOWHERE:
            await self._leases.mark(hold)


_NOWHERE = object()


def _unbounded(reservation: Reservation) -> Offer | None:
    """The first offer, where nothing bounds it nor any other; else None."""
    principal = reservation.principal
    if principal.budgets or principal.limits:
        return None
    offers = list(reservation.offers)  # each look makes them anew
    for offer in offers:
        if offer.budgets or offer.limits:
            return None
    return offers[0]
