"""One decision as tables a person can read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table

from router.settings import Settings


def evidence(decision: Mapping[str, Any]) -> Iterator[Table | str]:
    """What POST /v1/route answered, as a headline, the candidates and the nearest past queries."""
    yield (
        f"[bold]{decision['model']}[/bold]  drawn with probability {decision['propensity']:.2f} "
        f"by [italic]{decision['policy']}[/italic], preference {decision['preference']:.3g}, "
        f"λ = {decision['lambda_per_usd']:.4g} per USD"
    )
    if "plan" in decision:
        yield _plan(decision["plan"])
    yield _candidates(decision)
    refused = [each for each in decision["candidates"] if not each["eligible"]]
    if refused:
        yield "not eligible: " + "; ".join(f"{each['model']} ({each['reason']})" for each in refused)
    yield _neighbours(decision) if decision["neighbours"] else "no past query is known yet"


def _plan(plan: Mapping[str, Any]) -> Table:
    title = f"Plan: {plan['expected_usd']} USD expected, {plan['worst_usd']} held, {plan['seconds']:.2g} s"
    table = Table("step", "arm", "chance", "prompt", "completion", "expected, USD", "worst, USD", title=title)
    for each in plan["steps"]:
        tokens = str(each["prompt_tokens"]), str(each["completion_tokens"])
        cells = (f"{each['chance']:.2g}", *tokens, each["expected_usd"], each["worst_usd"])
        table.add_row(each["step"], each["arm"], *cells)
    return table


def programs(settings: Settings) -> Table:
    """The programs of a settings file: what kind each is, and who is asked."""
    table = Table("program", "kind", "asks", "options", title="Programs")
    for name, section in settings.programs.items():
        arms = ", ".join(f"{key}: {arm}" for key, arm in section.arms())
        left = section.model_dump(exclude={"kind", *(key for key, _ in section.arms())})
        table.add_row(name, section.kind, arms, ", ".join(f"{key} {value}" for key, value in left.items()))
    return table


def _candidates(decision: Mapping[str, Any]) -> Table:
    eligible = [each for each in decision["candidates"] if each["eligible"]]
    is_learned = any("learned_price" in each for each in eligible)
    learned = ("learned, USD/M",) if is_learned else ()
    table = Table("model", "quality", "±", "cost, USD", *learned, "price", "score", "probability", title="Candidates")
    for each in sorted(eligible, key=lambda one: -one["score"]):
        table.add_row(
            each["model"],
            f"{each['quality']:.3f}",
            f"{each['sigma']:.3f}",
            f"{each['cost_usd']:.3g}",
            *([_learned(each)] if is_learned else []),
            f"{each['price']:.3g}",
            f"{each['score']:.3f}",
            f"{each['probability']:.3f}",
            style="bold" if each["model"] == decision["model"] else None,
        )
    return table


def _learned(candidate: Mapping[str, Any]) -> str:
    """Prompt and completion price by measured machine time, with the answers they rest on."""
    price = candidate.get("learned_price")
    return f"{price['prompt']:.3g} / {price['completion']:.3g} ({price['answers']})" if price else "list"


def _neighbours(decision: Mapping[str, Any]) -> Table:
    table = Table("similarity", "query", "scores", title="Nearest past queries")
    for each in decision["neighbours"]:
        scores = ", ".join(f"{model} {score:.2f}" for model, score in each["scores"].items())
        table.add_row(f"{each['similarity']:.2f}", each["text"][:80] or "(not kept)", scores)
    return table
