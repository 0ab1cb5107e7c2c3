"""Who may serve: every no has a reason."""

from dataclasses import replace as replaced

import pytest
from msgspec.structs import replace

from router.gateway.eligibility import MOST_NAMED, Requirements, ineligible_reason, nobody, worst_case, worst_tokens
from router.types import Model, NanoUsd, Price, Principal

MODEL = Model(
    name="small",
    backend="engine",
    upstream="small",
    price=Price(NanoUsd(20_000_000), NanoUsd(60_000_000)),
    context_tokens=1000,
    max_output_tokens=1000,
    local=False,
    capabilities=frozenset({"chat", "tools"}),
)
NEEDS = Requirements(capabilities=frozenset({"chat"}), prompt_bytes=400, completion_tokens=50)
ANYONE = Principal(key_id="k", tenant="t")


def up(_: str) -> bool:
    return True


def test_a_model_that_fits_may_serve() -> None:
    assert ineligible_reason(MODEL, NEEDS, ANYONE, up) is None


@pytest.mark.parametrize(
    ("model", "requirements", "principal", "reason"),
    [
        (MODEL, replace(NEEDS, pinned="large"), ANYONE, "names another model"),
        (MODEL, NEEDS, replaced(ANYONE, allowed_models=frozenset({"large"})), "key does not allow"),
        (MODEL, replace(NEEDS, allowed=frozenset({"large"})), ANYONE, "allowed_models"),
        (MODEL, NEEDS, replaced(ANYONE, local_only=True), "must stay local"),
        (MODEL, replace(NEEDS, local_only=True), ANYONE, "must stay local"),
        (MODEL, replace(NEEDS, capabilities=frozenset({"chat", "vision"})), ANYONE, "cannot do vision"),
        (MODEL, replace(NEEDS, completion_tokens=1000), ANYONE, "the context holds 1000"),
        (MODEL, replace(NEEDS, max_cost=NanoUsd(10)), ANYONE, "max_cost_usd of 0.00000001 USD"),
        (replaced(MODEL, draining=True), NEEDS, ANYONE, "draining"),
    ],
)
def test_a_model_that_may_not_serve_says_why(
    model: Model, requirements: Requirements, principal: Principal, reason: str
) -> None:
    assert reason in str(ineligible_reason(model, requirements, principal, up))


def test_a_model_whose_backend_is_down_may_not_serve() -> None:
    assert ineligible_reason(MODEL, NEEDS, ANYONE, lambda name: name != "engine") == "its backend is down"


def test_the_worst_case_counts_a_token_for_every_byte_and_every_choice() -> None:
    prompt, completion = worst_tokens(MODEL, replace(NEEDS, choices=3))
    assert prompt >= NEEDS.prompt_bytes
    assert completion == 150
    assert worst_case(MODEL, NEEDS) == (MODEL.price.of(prompt, 50), prompt + 50)


def test_the_worst_case_never_exceeds_what_the_engine_can_hold() -> None:
    prompt, completion = worst_tokens(MODEL, replace(NEEDS, prompt_bytes=10**6, completion_tokens=None))
    assert (prompt, completion) == (1000, 1000)


def test_a_price_is_rounded_up_to_the_next_nano_usd() -> None:
    assert Price(NanoUsd(1), NanoUsd(0)).of(1, 0) == 1
    assert Price(NanoUsd(20_000_000), NanoUsd(0)).of(3, 0) == 60


def test_equal_reasons_are_told_once() -> None:
    reasons = {"a": "its backend is down", "b": "cannot do vision", "c": "its backend is down"}
    reported = nobody(None, reasons).message
    assert reported == "no model can serve this request now: a, c: its backend is down; b: cannot do vision"


def test_a_reason_of_many_names_some_and_counts_the_others() -> None:
    reported = nobody(None, {f"m{number:02}": "its backend is down" for number in range(MOST_NAMED + 3)}).message
    assert reported.endswith("m05 and 3 more: its backend is down")
    assert reported.count("its backend is down") == 1


def test_money_is_told_in_the_unit_in_which_it_differs() -> None:
    why = ineligible_reason(MODEL, replace(NEEDS, max_cost=NanoUsd(13_879)), ANYONE, up)
    assert why == "may cost 0.00001388 USD, over the request's max_cost_usd of 0.000013879 USD"
