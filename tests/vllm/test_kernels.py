"""The CUDA kernels, compiled for a CPU, against the numpy reference, on inputs drawn afresh for every run."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.vllm.engines import ROOT, VENV

CHECK = Path(__file__).with_name("compare.py")


NO_COMPILER = 77  # the exit status of a check that needs one


def run(what: str) -> None:
    """One check in a process of its own."""
    seed = int.from_bytes(os.urandom(4))
    command = [VENV / "bin" / "python", "-W", "ignore", CHECK, what, str(seed)]
    variables = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=variables, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode == NO_COMPILER:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, f"seed {seed}: {done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("what", ["skinny", "gemm", "quantize", "expand", "scatter"])
def test_a_kernel_gives_the_exact_integer_result_rounded_once(what: str) -> None:
    run(what)


@pytest.mark.parametrize("what", ["portable", "close"])
def test_weights_agree_with_the_stores_own(what: str) -> None:
    run(what)


def test_a_launch_refuses_activations_of_another_type() -> None:
    run("types")


def test_a_row_of_the_operator_on_a_cpu_is_the_same_alone_and_in_a_crowd() -> None:
    run("alone")


def test_every_kernel_is_compiled_for_every_architecture_from_sm_80_on() -> None:
    run("compile")


def test_a_worker_serves_only_where_exactly_one_model_runner_can_be_followed() -> None:
    run("runners")


def test_a_width_is_read_back_after_a_store_was_loaded() -> None:
    run("read_back")


def test_a_fractional_width_is_another_stored_width_in_each_layer() -> None:
    run("profiles")


def test_a_request_whose_width_is_the_least_is_computed_at_the_widest_of_its_batch_and_counted() -> None:
    run("floor")


def test_a_compiled_layer_takes_its_widths_as_inputs() -> None:
    run("traced")
