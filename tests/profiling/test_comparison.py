# SPDX-License-Identifier: Apache-2.0
"""Rows of the benchmark: each precision is as far from float32 as it should be."""

import pytest

from flavr_jax.config import ModelConfig
from flavr_jax.profiling import comparison


@pytest.fixture(scope="module")
def case():
    return comparison.Case(ModelConfig(width=8, n_outputs=2), 1, 64, 64)


@pytest.mark.parametrize(
    ("precision", "least", "most"), [("fp32", 0, 1e-5), ("bf16", 1e-4, 3e-2), ("fp8", 1e-2, 0.3)]
)
def test_a_row_tells_how_far_it_is_from_float32(case, precision, least, most):
    row = comparison.run_jax(case, "xla", precision, 2)
    assert row.name == f"xla {precision}"
    assert least <= row.error < most
    assert row.timing.median > 0
    assert row.peak_bytes > 0
