# SPDX-License-Identifier: Apache-2.0
"""Rows of the benchmark: each precision is as far from float32 as it should be."""

import jax
import numpy as np
import pytest

from flavr_jax.config import ModelConfig
from flavr_jax.profiling import comparison, presentation

pytestmark = pytest.mark.usefixtures("shallow")

CONFIG = ModelConfig(width=8, n_outputs=2)


@pytest.fixture(scope="module")
def case():
    return comparison.NetworkCase(CONFIG, 1, 32, 32)


@pytest.fixture(scope="module")
def programs(case):
    # Quantised kernels have no definition.
    return comparison.compile_jax(
        case, [("reference", "fp32"), ("reference", "bf16"), ("xla", "fp8")]
    )


@pytest.mark.parametrize(
    ("number", "name", "least", "most"),
    [(0, "reference fp32", 0, 1e-5), (1, "reference bf16", 1e-4, 3e-2), (2, "xla fp8", 1e-2, 0.3)],
)
def test_a_row_tells_how_far_it_is_from_float32(case, programs, number, name, least, most):
    row = comparison.run_jax(case, programs[number], 2)
    assert row.name == name
    assert least <= row.error < most
    assert row.timing.median > 0
    assert row.peak_bytes > 0


@pytest.mark.parametrize("base", ["mean", "blend"])
def test_the_error_is_relative_to_what_the_network_adds_to_its_base(base):
    config = ModelConfig(width=4, n_outputs=3, base=base)
    case = comparison.NetworkCase(config, 2, 16, 16, check=False)
    windows = np.asarray(case.windows, np.float64)
    if base == "mean":
        start = windows.mean(axis=(1, 2, 3), keepdims=True)
    else:
        times = np.array([0.25, 0.5, 0.75])[:, None, None, None]
        start = windows[:, 1:2] * (1 - times) + windows[:, 2:3] * times
    rng = np.random.default_rng(0)
    added, wrong = rng.standard_normal((2, 2, 3, 16, 16, 3))
    case.expected = start + added
    expected = 0.01 * np.linalg.norm(wrong) / np.linalg.norm(added)
    assert case.error(case.expected + 0.01 * wrong) == pytest.approx(expected, rel=1e-3)


def test_a_named_implementation_that_cannot_run_is_an_error():
    case = comparison.NetworkCase(ModelConfig(width=4), 1, 16, 16, check=False)
    with pytest.raises(NotImplementedError, match="mosaic_gpu"):
        comparison.compile_jax(case, [("mosaic_gpu", "bf16")])


def test_without_a_check_a_row_has_no_error(programs):
    case = comparison.NetworkCase(CONFIG, 1, 32, 32, check=False)
    assert case.expected is None
    row = comparison.run_jax(case, programs[0], 2)
    assert row.error is None
    assert "error" not in presentation.line(row)
    assert presentation.figures(row)["error"] is None


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", "float32"), ("bf16", "bfloat16"), ("fp16", "float16")]
)
def test_parameters_are_converted_once_before_anything_is_timed(precision, dtype):
    case = comparison.NetworkCase(ModelConfig(width=4), 1, 16, 16, check=False)
    found = case.parameters(precision, "xla")
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(found)} == {dtype}
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(case.params)} == {"float32"}


def test_two_cases_of_one_kind_have_the_same_network_and_windows():
    one, other = (
        comparison.NetworkCase(ModelConfig(width=4), 2, 16, 24, check=False) for _ in range(2)
    )
    assert one.windows.shape == (2, 4, 16, 24, 3)
    np.testing.assert_array_equal(one.windows, other.windows)
    for a, b in zip(*map(jax.tree.leaves, (one.params, other.params)), strict=True):
        np.testing.assert_array_equal(a, b)
