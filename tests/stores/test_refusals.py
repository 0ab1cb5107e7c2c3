"""A refusal says which limit stands in the way, in the unit in which its amounts differ."""

from router.stores.limits import of_budget
from router.stores.refusals import Refusal, refuse
from router.types import Budget, NanoUsd


def test_amounts_that_differ_by_a_nano_are_told_apart() -> None:
    limit = of_budget(Budget("tenant:acme", NanoUsd(5_000_000_000), 86_400, calendar="day"))
    reported = refuse(Refusal(limit, used=4_999_999_999, need=2, wait_ms=60_000)).message
    assert "is 5 USD; 4.999999999 USD is spent or held and this request may cost 0.000000002 USD." in reported
