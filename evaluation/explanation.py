"""One decision as tables a person can read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table


def evidence(decision: Mapping[str, Any]) -> Iterator[Table | str]:
    """What POST /v1/route answered, as a headline, the candidates and the nearest past queries."""
    yield (
        f"[bold]{decision['model']}[/bold]  drawn with probability {decision['propensity']:.2f} "
        f"by [italic]{decision['policy']}[/italic], preference {decision['preference']:.3g}, "
        f"λ = {decision['lambda_per_usd']:.4g} per USD"
    )
    yield _candidates(decision)
    refused = [each for each in decision["candidates"] if not each["eligible"]]
    if refused:
        yield "not eligible: " + "; ".join(f"{each['model']} ({each['reason']})" for each in refused)
    yield _neighbours(decision) if decision["neighbours"] else "no past query is known yet"


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
