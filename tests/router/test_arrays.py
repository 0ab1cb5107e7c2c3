"""Arrays that are kept come back as they were, under every NumPy that is allowed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from router.learning.arrays import load_arrays, save_arrays


def test_what_is_kept_has_the_names_and_values_it_was_given_and_no_others(tmp_path: Path) -> None:
    kept = {"a": np.arange(3), "b": np.array(["x", "yy"])}
    save_arrays(tmp_path / "some.npz", kept)
    found = load_arrays(tmp_path / "some.npz")
    assert list(found) == ["a", "b"]
    assert all((found[name] == array).all() for name, array in kept.items())


def test_objects_of_python_are_neither_written_nor_read(tmp_path: Path) -> None:
    hostile = np.array([print], dtype=object)
    with pytest.raises(ValueError, match="b: an array of objects"):
        save_arrays(tmp_path / "some.npz", {"a": np.arange(3), "b": hostile})
    np.savez(tmp_path / "foreign.npz", b=hostile)
    with pytest.raises(ValueError, match="pickle"):
        load_arrays(tmp_path / "foreign.npz")
