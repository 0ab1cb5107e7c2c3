"""How a Redis is that money is kept in: what it evicts, and whether its clock agrees. Each change is said once.

Fails with SettingsError where it may evict counters and nobody has said that this is accepted.
"""

from __future__ import annotations

import logging

from router.errors import SettingsError, StoreUnavailable

LOG = logging.getLogger("pointsman.ledger")
SAFE = "noeviction"
TOLERATED_MS = 5000  # between a gateway's clock and that of Redis; as in the scripts
ADVICE = "Set maxmemory-policy to noeviction, or store.accept_eviction to true if budgets need not hold."


class Condition:
    """What was last heard of one Redis."""

    def __init__(self, *, accepts_eviction: bool) -> None:
        self._accepts_eviction = accepts_eviction
        self._policy: str | None = None
        self._keys_version = 0
        self._skew_ms = 0

    def check_start(self, policy: str) -> None:
        """Raises: SettingsError where counters may vanish and that is not accepted."""
        self._policy = policy
        if policy == SAFE:
            return
        found = f"is {policy}" if policy else "cannot be read, by INFO or by CONFIG GET"
        if not self._accepts_eviction:
            raise SettingsError(
                f"Redis's maxmemory-policy {found}: under memory pressure it may evict what was spent, and budgets "
                f"could be spent again. {ADVICE}",
                param="store.redis",
            )
        LOG.error("Redis's maxmemory-policy %s: it may evict what was spent. store.accept_eviction allows it.", found)

    def heard_policy(self, policy: str) -> str | None:
        """What to note where the policy has changed while running."""
        if not policy or policy == self._policy:
            return None
        before, self._policy = self._policy, policy
        if policy == SAFE:
            LOG.warning("Redis's maxmemory-policy is noeviction again; it was %s.", before)
            return None
        LOG.error(
            "Redis's maxmemory-policy is %s now; it was %s. It may evict what was spent. %s", policy, before, ADVICE
        )
        return f"maxmemory-policy is {policy}; it was {before}"

    def heard_keys_version(self, version: int) -> str | None:
        """What to note where Redis had one and has none: whatever it knew is gone, and what was spent with it."""
        before, self._keys_version = self._keys_version, version
        if version or not before:
            return None
        LOG.error("Redis was emptied: what was spent is forgotten, and budgets begin anew. Restore it from a copy.")
        return "what was spent is forgotten, and budgets begin anew"

    def heard_skew(self, skew_ms: int) -> None:
        """By how much this gateway's clock is ahead of Redis's."""
        was_off, is_off = abs(self._skew_ms) > TOLERATED_MS, abs(skew_ms) > TOLERATED_MS
        self._skew_ms = skew_ms
        if is_off and not was_off:
            LOG.error("%s", skewed(skew_ms).message)
        elif was_off and not is_off:
            LOG.warning("This gateway's clock agrees with Redis's again; reservations are taken.")

    @property
    def skew_ms(self) -> int:
        """By how much this gateway's clock was ahead when last heard."""
        return self._skew_ms


def skewed(skew_ms: int) -> StoreUnavailable:
    """Why nothing is reserved."""
    direction, most_s = "ahead of" if skew_ms > 0 else "behind", TOLERATED_MS / 1000
    return StoreUnavailable(
        f"This gateway's clock is {abs(skew_ms) / 1000:.1f} s {direction} Redis's; the most is {most_s:.0f} s. "
        "Nothing is reserved until they agree."
    )
