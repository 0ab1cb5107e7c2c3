"""What is foretold of long inputs is what comes of readers who err as often as they are said to."""

from __future__ import annotations

import random

import pytest

from benchmarks.long_input import CONTEXT, ERRS, _read, _right, aggregate, chance_right
from router.programs.map_reduce import combined
from router.programs.splitting import parts_of, question_of

PARTS, TEXTS, TIMES = 21, 12, 150


@pytest.mark.parametrize("how", ["sum", "max", "merge"])
def test_what_is_foretold_of_an_aggregate_is_what_comes_of_it(how: str) -> None:
    chance = random.Random(5)
    texts = [aggregate(random.Random(i), how, 10 * CONTEXT * 4) for i in range(TEXTS)]
    right = 0
    for text in texts:
        body, question = question_of(text)
        parts = [f"{part.decode().strip()}\n\n{question}" for part in parts_of(body.encode(), PARTS)]
        answers = [[_read(part, errs=errs) for errs in (False, True)] for part in parts]
        known: dict[str, bool] = {}
        for _ in range(TIMES):
            said = combined([both[chance.random() < ERRS] for both in answers], how)
            known[said] = known[said] if said in known else _right(how, text, said)
            right += known[said]
    assert right / (TEXTS * TIMES) == pytest.approx(chance_right(how, texts, PARTS), abs=0.03)
