"""The numpy engine: batching, sampling, stopping. What it computes is compared in test_agreement.py."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from backends.anyprec.checkpoint import Shape
from backends.anyprec.engine.detokenizer import Piece
from backends.anyprec.engine.llama import Cache, Llama, NewTokens, rope_frequencies
from backends.anyprec.engine.sampling import Sampler, Sampling, filtered, log_softmax
from backends.anyprec.engine.scheduler import Job, Scheduler, complete
from backends.anyprec.engine.service import Loaded
from backends.anyprec.engine.tokenizer import BadMessages, Tokenizer
from backends.anyprec.engine.weights import Variant, Weights
from backends.anyprec.errors import Unsupported
from backends.anyprec.quantize import quantize
from backends.anyprec.store import Store
from tests.anyprec.llamas import write_llama

PROMPT = [257, *b"what is 2 + 2?", 260, 258]


@pytest.fixture(scope="module")
def loaded(store_folder: Path) -> Loaded:
    return Loaded("small", store_folder)


def generate(loaded: Loaded, *jobs: tuple[list[int], int, Sampling]) -> list[list[Piece]]:
    answers: list[list[Piece]] = [[] for _ in jobs]

    def failed(error: BaseException) -> None:
        raise error

    complete(
        loaded.scheduler,
        [
            Job(prompt, Variant(bits), sampling, sampling.seed or 0, answer.append, failed)
            for (prompt, bits, sampling), answer in zip(jobs, answers, strict=True)
        ],
    )
    return answers


def ids_of(pieces: list[Piece]) -> list[int]:
    return [token.id for piece in pieces for token in piece.tokens]


def text_of(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def plain(most: int, **changes: object) -> Sampling:
    return Sampling(max_tokens=most, temperature=0.0, ignore_eos=True, **changes)  # type: ignore[arg-type]


def test_reading_a_prompt_at_once_or_token_by_token_is_the_same(loaded: Loaded) -> None:
    model = loaded.model
    whole = model.forward([NewTokens(PROMPT, Cache(model.shape, 64), Variant(4))], every_position=True)
    cache = Cache(model.shape, 64)
    steps = [model.forward([NewTokens([token], cache, Variant(4))])[0] for token in PROMPT]
    np.testing.assert_allclose(steps, whole, atol=1e-4)


def test_answers_in_a_batch_of_three_widths_are_those_given_alone(loaded: Loaded) -> None:
    rng = np.random.default_rng(1)
    asked = [([int(t) for t in rng.integers(0, 256, 3 + 5 * i)], (3, 4, 8)[i % 3], plain(12)) for i in range(9)]
    together = generate(loaded, *asked)
    alone = [generate(loaded, each)[0] for each in asked]
    assert [ids_of(each) for each in together] == [ids_of(each) for each in alone]
    for one, other in zip(together, alone, strict=True):
        logprobs = [[token.logprob for piece in each for token in piece.tokens] for each in (one, other)]
        np.testing.assert_allclose(*logprobs, atol=1e-4)


def test_a_width_answers_like_its_own_weights_and_unlike_another(loaded: Loaded) -> None:
    logits = [
        loaded.model.forward([NewTokens(PROMPT, Cache(loaded.model.shape, 64), Variant(bits))])[0] for bits in (3, 8, 3)
    ]
    np.testing.assert_array_equal(logits[0], logits[2])
    assert abs(logits[0] - logits[1]).max() > 0.01


def test_rows_are_kept_within_the_bound_and_answers_do_not_depend_on_it(loaded: Loaded) -> None:
    crowded = Weights(loaded.model.weights.store)
    one_width = sum(4 * rows * columns for rows, columns in map(crowded.store.shape, crowded.store.layers))
    crowded.most_bytes = int(1.2 * one_width)
    model = Llama(crowded)
    for bits in (3, 4, 8, 3, 5, 8):
        run = NewTokens(PROMPT, Cache(model.shape, 64), Variant(bits))
        expected = loaded.model.forward([NewTokens(PROMPT, Cache(model.shape, 64), Variant(bits))])
        np.testing.assert_array_equal(model.forward([run]), expected)
        assert crowded.kept_bytes <= crowded.most_bytes
        assert crowded.kept_bytes == sum(matrix.nbytes for matrix in crowded._kept.values())


def test_a_seed_repeats_an_answer_and_another_seed_changes_it(loaded: Loaded) -> None:
    hot = [Sampling(max_tokens=20, temperature=3.0, ignore_eos=True, seed=seed) for seed in (1, 1, 2)]
    first, again, other = (ids_of(generate(loaded, (PROMPT, 4, each))[0]) for each in hot)
    assert first == again != other


def test_max_tokens_and_the_end_token_end_an_answer(loaded: Loaded) -> None:
    [answer] = generate(loaded, (PROMPT, 8, plain(5)))
    assert (len(ids_of(answer)), answer[-1].finish) == (5, "length")
    first = ids_of(answer)[0]
    [stopped] = generate(loaded, (PROMPT, 8, plain(5, stop_tokens=frozenset({first}))))
    assert (ids_of(stopped), stopped[-1].finish, stopped[-1].stop_reason) == ([first], "stop", first)


class Fixed:
    """A model that says a given text, for testing what happens around it."""

    def __init__(self, shape: Shape, said: list[int], start: int) -> None:
        self.shape, self._said, self._start = shape, said, start

    def forward(self, runs: list[NewTokens]) -> np.ndarray:
        logits = np.full((len(runs), self.shape.vocabulary), -10.0, np.float32)
        for row, run in enumerate(runs):
            run.cache.filled += len(run.tokens)
            logits[row, self._said[run.cache.filled - self._start]] = 10.0
        return logits


def said(loaded: Loaded, text: bytes, **changes: object) -> list[Piece]:
    model = Fixed(loaded.model.shape, [*text, 260], len(PROMPT))
    scheduler = Scheduler(model, loaded.tokenizer, eos=frozenset({260}))  # type: ignore[arg-type]
    pieces: list[Piece] = []
    sampling = Sampling(max_tokens=200, temperature=0.0, **changes)  # type: ignore[arg-type]
    complete(scheduler, [Job(PROMPT, Variant(8), sampling, 0, pieces.append, print)])
    return pieces


def test_text_ends_before_a_stop_string_and_none_of_it_is_shown(loaded: Loaded) -> None:
    pieces = said(loaded, b"one two STOP three", stop=("STOP", "three"))
    assert text_of(pieces) == "one two "
    assert (pieces[-1].finish, pieces[-1].stop_reason) == ("stop", "STOP")


def test_what_only_looks_like_a_stop_string_is_shown_in_the_end(loaded: Loaded) -> None:
    assert text_of(said(loaded, b"STO STOR ST", stop=("STOP",))) == "STO STOR ST"


def test_a_stop_string_is_kept_where_asked_for(loaded: Loaded) -> None:
    assert text_of(said(loaded, b"a.b.c", stop=(".b",), include_stop=True)) == "a.b"


def test_characters_are_never_cut_in_two(loaded: Loaded) -> None:
    pieces = said(loaded, "né 漢字 🙂".encode())
    assert text_of(pieces) == "né 漢字 🙂"
    assert all("\ufffd" not in piece.text for piece in pieces)


def test_broken_bytes_at_the_end_are_replaced_not_lost(loaded: Loaded) -> None:
    assert text_of(said(loaded, b"ab\xf0\x9f")) == "ab\ufffd"


def test_every_token_is_told_exactly_once(loaded: Loaded) -> None:
    text = "x漢 STOY".encode()
    assert ids_of(said(loaded, text, stop=("STOP",))) == [*text, 260]


def test_top_p_keeps_the_smallest_set_that_reaches_it() -> None:
    logprobs = np.log(np.array([0.5, 0.3, 0.15, 0.05]))
    kept = filtered(logprobs, Sampling(1, top_p=0.6))
    np.testing.assert_allclose(kept, [0.625, 0.375, 0, 0])
    np.testing.assert_allclose(filtered(logprobs, Sampling(1, top_k=1)), [1, 0, 0, 0])
    np.testing.assert_allclose(filtered(logprobs, Sampling(1, min_p=0.5)), [0.625, 0.375, 0, 0])


def test_sampling_follows_the_models_distribution() -> None:
    logits = np.log(np.array([0.6, 0.3, 0.1], np.float32))
    sampler = Sampler(Sampling(1), seed=5)
    counts = np.bincount([sampler.draw(logits).id for _ in range(4000)], minlength=3) / 4000
    np.testing.assert_allclose(counts, [0.6, 0.3, 0.1], atol=0.03)


def test_log_probabilities_are_the_models_own_whatever_the_temperature() -> None:
    logits = np.array([1.0, 2.0, 3.0], np.float32)
    token = Sampler(Sampling(1, temperature=0.0, logprobs=2), seed=0).draw(logits)
    expected = log_softmax(logits)
    assert (token.id, token.rank) == (2, 1)
    assert token.logprob == pytest.approx(expected[2])
    assert [t for t, _ in token.top] == [2, 1]


def test_a_frequency_penalty_drives_repetition_out() -> None:
    logits = np.array([1.0, 0.9, 0.8], np.float32)
    sampler = Sampler(Sampling(1, temperature=0.0, frequency_penalty=0.5), seed=0)
    assert [sampler.draw(logits).id for _ in range(3)] == [0, 1, 2]


def test_messages_become_the_prompt_the_template_says(loaded: Loaded) -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "né"}]}]
    assert loaded.tokenizer.encode(loaded.tokenizer.prompt(messages)) == [257, *"né".encode(), 260, 258]


def test_images_are_refused(loaded: Loaded) -> None:
    with pytest.raises(BadMessages, match="text"):
        loaded.tokenizer.prompt([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}])


def test_a_template_may_refuse_messages(store_folder: Path, tmp_path: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((store_folder / name).read_bytes())
    (tmp_path / "chat_template.jinja").write_text("{{ raise_exception('no system role') }}")
    with pytest.raises(BadMessages, match="no system role"):
        Tokenizer(tmp_path).prompt([{"role": "system", "content": "x"}])


def test_unknown_rotary_scalings_are_refused() -> None:
    with pytest.raises(Unsupported, match="yarn"):
        rope_frequencies({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, 16)


def test_a_sliding_window_bounds_the_context(tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "in", num_hidden_layers=1, sliding_window=40)
    quantize(folder, tmp_path / "out", bits=(3,), rows_per_table=8)
    assert Llama(Weights(Store.open(tmp_path / "out"))).context == 40


def test_perplexity_is_that_of_the_steps_it_predicts(loaded: Loaded) -> None:
    model, cache = loaded.model, Cache(loaded.model.shape, 64)
    steps = [log_softmax(model.forward([NewTokens([token], cache, Variant(5))])[0]) for token in PROMPT[:-1]]
    expected = [float(step[token]) for step, token in zip(steps, PROMPT[1:], strict=True)]
    found = model.log_probabilities(PROMPT, Variant(5))
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert math.exp(-found.mean()) > 1
