"""What is kept of a text: enough to fit the embedder on and to embed the text anew, and nothing that can be read."""

from __future__ import annotations

import numpy as np
import pytest

from backends.embedders import hashing
from backends.embedders.counts import BUCKETS, unpacked_counts
from backends.embedders.hashing import HashingEmbedder

TEXTS = [f"How many {thing} are in {place}?" for thing in ("cats", "rivers", "漢字") for place in ("Rome", "a box", "")]


def fitted(key: bytes = b"", dim: int = 8) -> HashingEmbedder:
    embedder = HashingEmbedder(dim, key=key)
    embedder.fit_counts([embedder.counts(text) for text in TEXTS])
    return embedder


@pytest.mark.parametrize("key", [b"", b"secret"])
def test_the_counts_of_a_text_are_embedded_as_the_text(key: bytes) -> None:
    embedder = fitted(key)
    texts = [*TEXTS, "unseen words", "", "a " * 9_000, "the the the"]
    counts = [embedder.counts(text) for text in texts]
    np.testing.assert_allclose(embedder.embed_counts(counts), embedder.embed_now(texts), atol=1e-3)


def test_neither_a_key_nor_the_order_of_arrival_changes_what_is_learned() -> None:
    """A gateway and a replay of its log have one space: forests split otherwise where vectors differ by little."""
    words = np.random.default_rng(0).choice(["time", "river", "how", "many", "漢字", "is", "box", "x+1"], (60, 12))
    texts = [" ".join(row) for row in words] + TEXTS
    embedded = []
    for key, order in ((b"", texts), (b"secret", texts), (b"", texts[::-1]), (b"other", sorted(texts))):
        embedder = HashingEmbedder(32, key=key)
        embedder.fit_counts([embedder.counts(text) for text in order])
        embedded.append(embedder.embed_now(texts))
        embedded.append(embedder.embed_counts([embedder.counts(text) for text in texts]))
    for other in embedded[1:]:
        np.testing.assert_array_equal(other, embedded[0])


def test_without_the_key_counts_say_nothing_of_the_words() -> None:
    mine, yours = (set(unpacked_counts(HashingEmbedder(key=key).counts(TEXTS[0]))[0]) for key in (b"mine", b"yours"))
    assert len(mine) == len(yours) > 20
    assert len(mine & yours) < 3


def test_fitting_on_texts_is_fitting_on_their_counts() -> None:
    on_texts = HashingEmbedder(8)
    on_texts.fit(TEXTS)
    np.testing.assert_array_equal(on_texts.embed_now(TEXTS), fitted().embed_now(TEXTS))


def test_before_it_is_fitted_counts_are_embedded_as_nothing() -> None:
    embedder = HashingEmbedder(8)
    assert not embedder.embed_counts([embedder.counts(TEXTS[0])]).any()


@pytest.mark.parametrize("counts", [b"", b"\x03abc", b"\x02ab", b"\x04" + b"\xff" * 5])
def test_bytes_that_are_no_counts_are_refused(counts: bytes) -> None:
    with pytest.raises(ValueError, match="counts"):
        fitted().embed_counts([counts])


def test_what_is_learned_stays_below_its_bound_and_the_rarest_features_go_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = fitted().state()
    monkeypatch.setattr(hashing, "MOST_BYTES", 40 * 16)
    less = fitted().state()
    assert sum(array.nbytes for array in less.values()) <= 40 * 16 < sum(array.nbytes for array in whole.values())
    assert set(less["kept"].tolist()) < set(whole["kept"].tolist())


def test_a_state_that_lies_about_itself_changes_nothing() -> None:
    embedder, true = fitted(), fitted().state()
    before = embedder.embed_now(TEXTS)
    lies = [
        {"kept": np.full_like(true["kept"], true["kept"][0])},
        {"kept": true["kept"] + BUCKETS},
        {"scales": true["scales"][1:]},
        {"projection": true["projection"][:, 1:]},
    ]
    for lie in lies:
        with pytest.raises(ValueError, match="state"):
            embedder.restore({**true, **lie}, space="lie")
    assert embedder.space == ""
    np.testing.assert_array_equal(before, embedder.embed_now(TEXTS))
