"""ĉ where an arm's machine is rented: the expected tokens at what they are measured to cost, in place of list prices.

Budgets and capacities are enforced at list prices, so their prices μ and γ stay prices of a dollar charged. Expressed
as prices of a dollar of ĉ they differ between arms, (λ + (μ + γ_m) · charged_m / ĉ_m), and price times ĉ_m comes to
λ ĉ_m + (μ + γ_m) charged_m. That is the Lagrangian of costs in one currency under budgets in another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from policies.types import Arm, Estimates, Float, LoggedContext, MeasuredCost

CHEAPEST_USD = 1e-15  # of an answer: prices are divided by it
LEAST_READ, MOST_READ = 0.25, 4.0  # tokens that an engine reports of a prompt for one that is counted …
UNSEEN = 2_048.0  # … and beside these, at most


class TokenLine(NamedTuple):
    """Tokens that an engine reports, by others that we know."""

    constant: float
    slope: float
    sure: float  # in [0, 1)


def counted_ratios(
    arms: Sequence[Arm], lines: Mapping[str, TokenLine], counted: int, rates: Sequence[float]
) -> Float | None:
    """(n,) tokens that each arm will report for one of `counted` · rate, its own tokens for one counted; None where
    nothing is known of any."""
    if not lines:
        return None
    found = [1.0] * len(arms)
    for place, arm in enumerate(arms):
        line = lines.get(arm.name)
        if line is not None and counted > 0:
            read = min(max(line.constant + line.slope * counted, LEAST_READ * counted), MOST_READ * counted + UNSEEN)
            found[place] = line.sure * read / (rates[place] * counted) + 1.0 - line.sure
    return np.array(found)


def prompt_tokens(context: LoggedContext) -> Float | int:
    """(n,) that each arm is expected to read; one number where nobody knows better than our own count."""
    return context.prompt_tokens if context.counted is None else context.counted * context.prompt_tokens


def discounted(context: LoggedContext, listed: Estimates) -> Estimates:
    """What is expected to be charged, with what an arm's cache holds of the prompt at the price of that."""
    if context.cached is None:
        return listed
    off = np.array([0.0 if a.cached_price is None else a.prompt_price - a.cached_price for a in context.arms])
    cost = np.maximum(listed.cost - context.cached * off * prompt_tokens(context), CHEAPEST_USD)
    return Estimates(listed.quality, listed.sigma, cost)


def routed(context: LoggedContext, estimates: Estimates, charged: Estimates) -> Estimates:
    """The estimates that decide, from those at list prices and those that are charged: what waiting costs is added."""
    measured = context.measured_cost
    cost = charged.cost if measured is None else _by_machine_time(context, estimates, charged, measured)
    if context.waiting is not None:
        cost = cost + context.waiting
    return charged if cost is charged.cost else Estimates(charged.quality, charged.sigma, cost)


def _by_machine_time(context: LoggedContext, estimates: Estimates, charged: Estimates, measured: MeasuredCost) -> Float:
    """(n,) USD by measured machine time, where there is one."""
    listed = np.array([(arm.prompt_price, arm.completion_price) for arm in context.arms]).T  # (2, n)
    tokens = _completion_tokens(context, estimates, measured, listed)
    read = 1.0 if context.cached is None else 1.0 - context.cached  # what is found again takes no machine's time
    cost = measured.prompt_usd * read * prompt_tokens(context) + measured.completion_usd * tokens
    return np.asarray(np.where(np.isnan(measured.completion_usd), charged.cost, np.maximum(cost, CHEAPEST_USD)))


def repriced(context: LoggedContext, prices: Float, charged: Estimates, estimates: Estimates) -> Float:
    """(n,) prices of a dollar of ĉ, from λ + μ + γ of a dollar charged."""
    if estimates is charged:
        return prices
    ratio = charged.cost / np.maximum(estimates.cost, CHEAPEST_USD)
    return np.asarray(context.preference + (prices - context.preference) * ratio)


def _completion_tokens(context: LoggedContext, charged: Estimates, measured: MeasuredCost, listed: Float) -> Float:
    """(n,) those which the charge implies; of an arm that charges nothing for them, its usual ones."""
    prompt, completion = listed
    implied = (charged.cost - prompt * prompt_tokens(context)) / np.where(completion > 0.0, completion, 1.0)
    tokens = np.where(completion > 0.0, np.maximum(implied, 0.0), measured.tokens)
    return np.asarray(np.minimum(tokens, context.max_completion_tokens))
