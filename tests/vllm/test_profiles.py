"""A fractional width on real vLLM: one more width of the same store, equal to the numpy engine's."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest

from backends.anyprec.engine.llama import Llama
from backends.anyprec.engine.weights import Variant, Weights
from backends.anyprec.profiles import Profile, read_profiles, write_profile
from backends.anyprec.store import Store
from tests.vllm.engines import STORES, Engine, bits_of
from tests.vllm.test_plugin import TEXT, of_prompt, steps

BITS = 3.25


@pytest.fixture(scope="module")
def profiled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    folder = tmp_path_factory.mktemp("profiled")
    copy = Path(shutil.copytree(STORES / "small", folder / "small"))
    store = Store.open(copy)
    wide = ("v_proj", "o_proj", "up_proj")  # of what vLLM fuses, some wide and some narrow
    widths = {layer: 5 if layer.endswith(wide) and ".0." not in layer else 3 for layer in store.layers}
    write_profile(Profile(BITS, BITS, widths), copy, store.config)
    engine = Engine("small", copy, folder / "log", ("--dtype", "float32"))
    engine.start()
    try:
        engine.wait()
        yield engine
    finally:
        engine.kill()


def test_a_fractional_width_gives_the_numpy_engines_probabilities(profiled: Engine) -> None:
    store = Store.open(profiled.store)
    model = Llama(Weights(store, profiles=read_profiles(store.folder, store.config)))
    ours, narrow = (model.log_probabilities(TEXT, Variant(each)) for each in (BITS, 3))
    assert of_prompt(profiled, TEXT, BITS) == pytest.approx(ours.tolist(), abs=5e-3)
    assert np.abs(ours - narrow).mean() > 0.05  # or any width would do


def test_it_answers_in_one_batch_with_plain_widths_as_it_does_alone(profiled: Engine) -> None:
    jobs = [("abcdefg hij"[i % 5 :] * 3, (3, BITS, 6)[i % 3]) for i in range(24)]
    with ThreadPoolExecutor(len(jobs)) as pool:
        crowd = list(pool.map(lambda job: steps(profiled, *job, cache_salt="crowd"), jobs))
    assert crowd == [steps(profiled, *job, cache_salt="solo") for job in jobs]


def test_it_is_listed_on_the_models_card_and_others_are_refused(profiled: Engine) -> None:
    (card,) = httpx.get(f"{profiled.url}/v1/models").json()["data"]
    assert card["anyprec_bits"] == sorted([*bits_of(profiled.store), BITS])
    body = {"prompt": "abc", "max_tokens": 1, "vllm_xargs": {"anyprec_bits": 3.5}}
    assert profiled.post("/v1/completions", body).status_code == 400
