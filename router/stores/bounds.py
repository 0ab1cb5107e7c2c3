"""What a ledger takes: whole numbers that it can count exactly. Whatever the store, nothing else reaches it."""

from __future__ import annotations

from collections.abc import Iterable

from router.errors import InvalidRequest
from router.types import NanoUsd, Offer, Spend

MAX_NANO_USD = 2**53 - 1  # of one request, about 9 million USD; scripts in Redis count in doubles, exact up to 2^53
MAX_TOKENS = 2**40  # of one request


def is_count(value: object, most: int) -> bool:
    """Whether this is a whole number, 0 to `most`; no bool, and no float however whole."""
    return type(value) is int and 0 <= value <= most


def check_offers(offers: Iterable[Offer]) -> None:
    """Raises: InvalidRequest where a worst case is none that can be held."""
    for offer in offers:
        if not is_count(offer.worst, MAX_NANO_USD):
            raise InvalidRequest(
                f"The worst case of {offer.model} is {offer.worst!r} nano-USD; it must be whole, 0 to {MAX_NANO_USD}."
            )
        if not is_count(offer.tokens, MAX_TOKENS):
            raise InvalidRequest(
                f"{offer.model} may need {offer.tokens!r} tokens; they must be a whole number, 0 to {MAX_TOKENS}."
            )


def why_refused(spend: Spend) -> str | None:
    """Why a ledger cannot charge this; None where it can."""
    if not is_count(spend.cost, MAX_NANO_USD):
        return f"cost is {spend.cost!r}; it must be whole, 0 to {MAX_NANO_USD} nano-USD"
    counts = {"prompt": spend.prompt_tokens, "completion": spend.completion_tokens, **spend.kinds}
    for name, tokens in counts.items():
        if not is_count(tokens, MAX_TOKENS):
            return f"{name} tokens are {tokens!r}; they must be whole, 0 to {MAX_TOKENS}"
    return None


def worst_case(amount: NanoUsd) -> Spend:
    """What is charged instead of a spend that is refused: all that was held."""
    return Spend(amount, 0, 0, "expired", estimated=True)
