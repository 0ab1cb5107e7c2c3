"""What false feedback of one tenant takes from the others: python -m benchmarks.poison

Eight honest tenants, and one that finds another arm best for each kind of query. An attacker says the opposite of the
truth with 0, 20 and 40 % of all traffic. Views, policies and refits are a gateway's. Printed: the mean quality in the
second half, of the honest tenants and of the tenant of another taste by its own. Then what the honest lose against an
attacker that says nothing. Fails as the policy does.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policies.records import DecisionRecord, Feedback, SettlementRecord
from policies.registry import build
from policies.types import Arm, LoggedContext, StoredPolicy, draw
from research.provenance import provenance
from router.learning.index import FaissIndex
from router.learning.refit_schedule import next_refit
from router.learning.views import Views

DIM, KINDS, HONEST = 32, 6, 8
ARMS = tuple(Arm(name, 1e-7, 1e-7) for name in ("a", "b", "c", "d"))
PREFERENCE = 1.0  # λ: all arms cost the same
ATTACKER, OTHER = "attacker", "other taste"


@dataclass(frozen=True)
class PoisonedWorld:
    """Kinds of queries, and how good each arm is at each: which is best depends on the kind."""

    centres: NDArray[np.float64]  # (KINDS, DIM)
    quality: NDArray[np.float64]  # (KINDS, arms)

    @classmethod
    def of(cls, seed: int) -> PoisonedWorld:
        rng = np.random.default_rng(seed)
        centres = rng.normal(size=(KINDS, DIM))
        quality = rng.uniform(0.6, 0.8, (KINDS, len(ARMS)))
        quality[np.arange(KINDS), rng.integers(0, len(ARMS), KINDS)] = 0.92
        return cls(centres / np.linalg.norm(centres, axis=1, keepdims=True), quality)

    def embedding(self, kind: int, rng: np.random.Generator) -> NDArray[np.float32]:
        """A query of this kind."""
        found = self.centres[kind] + rng.normal(size=DIM) * 0.08
        unit: NDArray[np.float32] = (found / np.linalg.norm(found)).astype(np.float16).astype(np.float32)
        return unit


@dataclass(frozen=True)
class Earned:
    """Mean quality in the second half."""

    honest: float
    other: float
    best: float
    random: float


def played(world: PoisonedWorld, name: str, *, share: float, queries: int, seed: int, lies: bool = True) -> Earned:
    """A stream in which the attacker has `share` of the traffic, and says nothing where it does not lie."""
    policy: StoredPolicy = build(name, ARMS, {"explore": 0.05} if name == "neighbours" else {})
    views, rng, due = Views(FaissIndex(DIM), {name: policy}), np.random.default_rng(seed), 200
    earned: dict[str, list[float]] = {"honest": [], "other": []}
    for number in range(queries):
        tenant = ATTACKER if rng.random() < share else _honest(rng)
        kind = int(rng.integers(KINDS))
        truth = np.roll(world.quality[kind], 1) if tenant == OTHER else world.quality[kind]
        choice = _asked(views, policy, world, (tenant, number, kind), rng)
        good = float(rng.random() < truth[choice])
        if lies or tenant != ATTACKER:
            _judged(views, number, tenant, 1.0 - good if tenant == ATTACKER else good)
        if views.learned >= due:
            policy.refit(views.history(ARMS))
            due = next_refit(views.learned)
        if number >= queries // 2 and tenant != ATTACKER:
            earned["other" if tenant == OTHER else "honest"].append(float(truth[choice]))
    best, chance = world.quality.max(axis=1).mean(), world.quality.mean()
    return Earned(float(np.mean(earned["honest"])), float(np.mean(earned["other"])), float(best), float(chance))


def _honest(rng: np.random.Generator) -> str:
    number = int(rng.integers(HONEST + 1))
    return OTHER if number == HONEST else f"honest {number}"


def _asked(
    views: Views, policy: StoredPolicy, world: PoisonedWorld, who: tuple[str, int, int], rng: np.random.Generator
) -> int:
    tenant, number, kind = who
    embedding = world.embedding(kind, rng)
    logged = LoggedContext(
        f"d{number}", tenant, PREFERENCE, embedding, ARMS, 100, 400, 200, float(number), neighbours_asked=100
    )
    proposal = policy.propose(views.context(logged))
    choice = draw(proposal.probabilities, rng.random())
    record = DecisionRecord(
        logged, proposal.evidence, proposal.probabilities, ARMS[choice].name, "poison", key_id=tenant
    )
    views.take(record)
    return choice


def _judged(views: Views, number: int, tenant: str, score: float) -> None:
    known = views.open.get(f"d{number}")
    if known is None:
        return
    model = known.record.model
    views.take(SettlementRecord(f"d{number}", number, model, 1000, 100, 100, "settled", 1.0, 1.0, tenant=tenant))
    views.take(Feedback(f"d{number}", number, score, tenant=tenant, key_id=tenant))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policy", default="neighbours")
    parser.add_argument("--queries", type=int, default=6000)
    parser.add_argument("--seeds", type=int, default=3)
    asked = parser.parse_args()
    print("| attacker | honest tenants | lost | tenant of another taste | best | random |")
    print("|---|---|---|---|---|---|")
    for share in (0.0, 0.2, 0.4):
        runs = [
            [
                played(PoisonedWorld.of(seed), asked.policy, share=share, queries=asked.queries, seed=seed, lies=lies)
                for lies in (True, False)
            ]
            for seed in range(asked.seeds)
        ]
        honest, other = (float(np.mean([getattr(lied, key) for lied, _ in runs])) for key in ("honest", "other"))
        lost = float(np.mean([true.honest - lied.honest for lied, true in runs]))
        best, chance = runs[0][0].best, runs[0][0].random
        print(f"| {share:.0%} | {honest:.3f} | {lost:+.3f} | {other:.3f} | {best:.3f} | {chance:.3f} |")
    print(f"\n{provenance()}")


if __name__ == "__main__":
    main()
