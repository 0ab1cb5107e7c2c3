"""What it costs in quality when many gateways learn from a part of each other's outcomes.

    python -m benchmarks.scale [--gateways 100] [--follow 0.3 0.1 0.03 0] [--write docs/scale.md]

Requests of a trace come to gateways at random. Each gateway learns from its own outcomes, and from a random part of all
others', drawn once for each outcome, so that every follower sees the same part. The first row is one gateway with all
outcomes: as many as follow everything decide alike. Views, index and policy are those of the running gateway; the
embedder is not fitted. Fails with SystemExit where the trace is missing.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.from_nothing import ColdGateway, JudgedShare, best_single
from benchmarks.traces import STREAMS, PublicTrace, load_trace
from policies.intervals import interval_of
from policies.replay import Rows
from policies.types import Float
from research.provenance import put

PROBES = 300  # queries that every gateway is asked at the end, of which nobody learns
PRICE = 0.1  # λ times the mean cost of an answer
EVERYTHING = JudgedShare()


class SampledGateway(ColdGateway):
    """One of many, whose embedder stays as it is; `texts` are those of all, so that decisions have one numbering."""

    def _fit(self) -> None:
        self.next_fit = 1 << 62

    def favourite(self, row: int, price: float) -> int:
        """The arm that it would most probably choose."""
        return int(np.argmax(self.proposal(self.logged(row, price)).probabilities))


@dataclass(frozen=True)
class ScaledRun:
    """What became of one order of the requests."""

    gained: float  # points of utility a request above the best single model in hindsight, in the second half
    apart: float  # share of probes on which two gateways would choose differently
    learned: float  # outcomes that one gateway has at the end


def run(policy: str, trace: PublicTrace, requests: int, gateways: int, *, follow: float, seed: int) -> ScaledRun:
    """One order of the requests over so many gateways."""
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(trace.prompts))
    stream, probes = rows[:requests], rows[requests : requests + PROBES]
    price, texts = PRICE / float(trace.costs.mean()), list[int]()
    all_gateways = [SampledGateway(policy, trace) for _ in range(gateways)]
    for each in all_gateways:
        each.texts = texts
    worth = np.array([_answered(all_gateways, trace, int(row), price, follow, rng) for row in stream])
    gains = 100.0 * (worth - best_single(trace, stream, price))
    asked = all_gateways[:: max(1, gateways // 10)]
    return ScaledRun(
        gained=float(gains[requests // 2 :].mean()),
        apart=_apart(asked, probes, price),
        learned=float(np.mean([each.views.learned for each in asked])),
    )


def _answered(
    gateways: Sequence[SampledGateway],
    trace: PublicTrace,
    row: int,
    price: float,
    follow: float,
    rng: np.random.Generator,
) -> float:
    """One request at one of them; what it is worth. All learn from it, or this one alone."""
    own = gateways[int(rng.integers(len(gateways)))]
    arm, record = own.ask(row, price, rng)
    score, cost = float(trace.scores[row, arm]), float(trace.costs[row, arm])
    said = EVERYTHING.feedback(record.decision_id, record.at_ms, score, rng)
    own.settle(record, arm, cost, said)
    if rng.random() < follow:
        for each in gateways:
            if each is not own:
                each.views.take(record)
                each.settle(record, arm, cost, said)
    return score - price * cost


def _apart(gateways: Sequence[SampledGateway], probes: Rows, price: float) -> float:
    """How often two of them differ in the arm that they would most probably choose."""
    if len(gateways) < 2:
        return 0.0
    chosen = np.array([[each.favourite(int(row), price) for row in probes] for each in gateways])
    pairs = [(i, j) for i in range(len(chosen)) for j in range(i)]
    return float(np.mean([(chosen[i] != chosen[j]).mean() for i, j in pairs]))


def table(rows: Sequence[tuple[str, Sequence[ScaledRun]]]) -> list[str]:
    """A row for each share that is followed; the first is what the others are held to, order by order."""
    lines = [
        "| gateways, part followed | outcomes a gateway has | points above the best single model | against the first "
        "row | choices apart |",
        "|---|---|---|---|---|",
    ]
    first = np.array([each.gained for each in rows[0][1]])
    for label, runs in rows:
        gained = np.array([each.gained for each in runs])
        learned, apart = (float(np.mean([getattr(each, name) for each in runs])) for name in ("learned", "apart"))
        cells = (f"{learned:,.0f}", _shown(gained), _shown(gained - first) if label != rows[0][0] else "")
        lines.append(f"| {label} | {' | '.join(cells)} | {100 * apart:.1f} % |")
    return lines


def _shown(points: Float) -> str:
    found = interval_of(points)
    return f"{found.mean:+.2f} ± {found.high - found.mean:.2f}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace", nargs="?", default="routerdc7", choices=list(STREAMS))
    parser.add_argument("--policy", default="neighbours")
    parser.add_argument("--gateways", type=int, default=100)
    parser.add_argument("--requests", type=int, default=3_000)
    parser.add_argument("--follow", type=float, nargs="*", default=[0.3, 0.1, 0.03, 0.0])
    parser.add_argument("--orders", type=int, default=6)
    parser.add_argument("--write", type=Path, help="a page with marks for the table")
    arguments = parser.parse_args()
    threadpool_limits(1)
    trace = load_trace(arguments.trace)
    ways = [(1, 1.0), *((arguments.gateways, part) for part in arguments.follow)]
    found = []
    for gateways, part in ways:
        label = "one, all" if gateways == 1 else f"{gateways}, {100 * part:g} %"
        runs = [
            run(arguments.policy, trace, arguments.requests, gateways, follow=part, seed=seed)
            for seed in range(arguments.orders)
        ]
        found.append((label, runs))
        print(table(found)[-1], flush=True)
    lines = table(found)
    print(*lines, sep="\n")
    if arguments.write is not None:
        put(arguments.write, "scale", lines)


if __name__ == "__main__":
    main()
