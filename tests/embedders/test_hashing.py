"""The hashing embedder: what any holder of an index may rely on."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from backends.embedders.hashing import FEATURE_NAMES, HashingEmbedder
from backends.embedders.tables import MAX_CHARACTERS

TEXTS = [
    "What is the capital of France?",
    "What is the capital of Spain?",
    "Write a python function that reverses a list.",
    "Write a python function that sorts a list of numbers.",
    "下列哪一项是正确的？ A. 艺术 B. 文艺",
    "下列哪一项是错误的？ A. 音乐 B. 美术",
    "x",
    "😀 émigré Ünïcode, tabs\tand\nlines",
]


@pytest.fixture(params=["unfitted", "fitted"])
def embedder(request: pytest.FixtureRequest) -> HashingEmbedder:
    made = HashingEmbedder(16)
    if request.param == "fitted":
        made.fit(TEXTS)
    return made


def test_the_same_text_always_gives_the_same_vector(embedder: HashingEmbedder) -> None:
    again = HashingEmbedder(16)
    again.restore(embedder.state())
    for text in TEXTS:
        np.testing.assert_array_equal(embedder.embed_one(text), again.embed_one(text))


def test_rows_are_of_unit_length(embedder: HashingEmbedder) -> None:
    lengths = np.linalg.norm(embedder.embed_now(TEXTS[:6]), axis=1)
    np.testing.assert_allclose(lengths, 1.0, atol=1e-5)


@pytest.mark.parametrize("text", ["", " \n\t "])
def test_a_text_without_features_gives_a_zero_row(embedder: HashingEmbedder, text: str) -> None:
    assert not embedder.embed_one(text).any()


def test_a_batch_agrees_with_its_texts_one_by_one(embedder: HashingEmbedder) -> None:
    batch = asyncio.run(embedder.embed(TEXTS))
    assert batch.shape == (len(TEXTS), embedder.dim)
    assert batch.dtype == np.float32
    np.testing.assert_array_equal(batch, np.stack([embedder.embed_one(text) for text in TEXTS]))


def test_texts_that_share_words_are_nearer_than_those_that_do_not(embedder: HashingEmbedder) -> None:
    france, spain, code, *_ = embedder.embed_now(TEXTS)
    assert france @ spain > france @ code


def test_case_makes_no_difference(embedder: HashingEmbedder) -> None:
    np.testing.assert_array_equal(embedder.embed_one(TEXTS[0]), embedder.embed_one(TEXTS[0].upper()))


def test_chinese_is_told_apart_by_its_characters() -> None:
    first, second, other = HashingEmbedder(256).embed_now(["音乐和美术", "音乐和数学", "天文与几何"])
    assert first @ second > first @ other


def test_a_text_of_a_million_characters_is_embedded(embedder: HashingEmbedder) -> None:
    vector = embedder.embed_one("the quick brown fox. " * 50_000)
    assert np.isfinite(vector).all()


def test_lone_surrogates_are_embedded(embedder: HashingEmbedder) -> None:
    assert np.isfinite(embedder.embed_one("broken \ud800 pair")).all()


def test_a_state_of_another_dimension_is_refused() -> None:
    fitted = HashingEmbedder(8)
    fitted.fit(TEXTS)
    with pytest.raises(ValueError, match="8"):
        HashingEmbedder(16).restore(fitted.state())


def test_fitting_on_too_little_leaves_the_sketch() -> None:
    embedder = HashingEmbedder(16)
    before = embedder.embed_one(TEXTS[0])
    embedder.fit(TEXTS[:1])
    np.testing.assert_array_equal(before, embedder.embed_one(TEXTS[0]))


def test_features_are_finite_and_named() -> None:
    embedder = HashingEmbedder(16)
    for text in ["", *TEXTS]:
        features = embedder.features(text)
        assert features.shape == (len(FEATURE_NAMES),)
        assert np.isfinite(features).all()


def test_features_see_digits_choices_and_characters_of_chinese() -> None:
    features = dict(zip(FEATURE_NAMES, HashingEmbedder(16).features("数 12\nA. 一\nB. 二\n答案："), strict=True))
    assert features["digit_share"] > 0
    assert features["choices"] == 2.0
    assert features["ends_with_answer"] == 1.0
    assert features["cjk_share"] > 0.2


def test_features_of_a_long_text_are_those_of_its_beginning_its_length_and_its_last_words() -> None:
    beginning = "Question: which?\nA. one\nB. two\n" + "x" * MAX_CHARACTERS
    short = HashingEmbedder(16).features(f"{beginning} def Answer:")
    long = HashingEmbedder(16).features(f"{beginning} def {'y' * 10_000} Answer:")
    lengths = [FEATURE_NAMES.index(name) for name in ("log_characters", "log_plain_characters")]
    assert (long[lengths] > short[lengths]).all()
    assert np.delete(long, lengths).tolist() == np.delete(short, lengths).tolist()
    assert dict(zip(FEATURE_NAMES, long, strict=True))["ends_with_answer"] == 1.0
