"""A ledger that leaves alone what no budget and no limit bounds: for a gateway that only passes requests through.

Fails as the ledger it stands before does; where that is not asked, it cannot fail.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from router.ports import Leases, Ledger
from router.types import Balance, Budget, Hold, Reservation, Spend


class Unmetered:
    """Before any ledger: while `passes` says so, unbounded reservations get a hold that is kept nowhere."""

    def __init__(self, ledger: Ledger, leases: Leases, *, passes: Callable[[], bool]) -> None:
        self._ledger = ledger
        self._leases = leases
        self._passes = passes

    async def reserve(self, reservation: Reservation) -> Hold:
        """See Ledger.reserve."""
        if not self._passes() or _is_bounded(reservation):
            return await self._ledger.reserve(reservation)
        offer = next(iter(reservation.offers))
        expires_at_ms = reservation.now_ms + reservation.ttl_ms
        return Hold(reservation.decision_id, offer.model, offer.worst, expires_at_ms, ticket=_NOWHERE)

    async def settle(self, hold: Hold, spend: Spend) -> None:
        """See Ledger.settle."""
        if hold.ticket is not _NOWHERE:
            await self._ledger.settle(hold, spend)

    async def balances(self, budgets: Sequence[Budget], now_ms: int) -> list[Balance]:
        """See Ledger.balances."""
        return await self._ledger.balances(budgets, now_ms)

    async def mark(self, hold: Hold) -> None:
        """See Leases.mark."""
        if hold.ticket is not _NOWHERE:
            await self._leases.mark(hold)


_NOWHERE = object()


def _is_bounded(reservation: Reservation) -> bool:
    principal = reservation.principal
    return bool(
        principal.budgets or principal.limits or any(offer.budgets or offer.limits for offer in reservation.offers)
    )
