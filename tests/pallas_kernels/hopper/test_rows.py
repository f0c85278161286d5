# SPDX-License-Identifier: Apache-2.0
"""Rows read and written by number: in an interpreted kernel, and compiled for Hopper."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels.hopper import rows

COUNT = 128
ORDER = np.random.default_rng(0).permutation(2 * COUNT)[:COUNT].astype(np.int32)


def table(columns):
    return np.random.default_rng(1).standard_normal((2 * COUNT, columns)).astype(np.float32)


def interpreted(body, result, *given):
    call = pl.pallas_call(body, out_shape=jax.ShapeDtypeStruct(*result), interpret=True)
    return np.asarray(call(*map(jnp.asarray, given)), np.float32)


@pytest.mark.parametrize("columns", [1, 3, 8])
def test_rows_are_read_and_written_by_number(columns):
    def body(source, numbers, places, output):
        output[...] = jnp.full_like(output, 7)
        found = rows.read_rows(source, numbers[...], interpret=True)
        rows.write_rows(output, places[...], found, interpret=True)

    source = table(columns)
    numbers = np.concatenate([ORDER[:-2], ORDER[:2]])  # two rows a second time
    places = 5 + np.random.default_rng(2).permutation(COUNT).astype(np.int32)
    made = interpreted(body, ((COUNT + 9, columns), jnp.float32), source, numbers, places)
    np.testing.assert_array_equal(made[places], source[numbers])
    assert (made[:5] == 7).all()
    assert (made[-4:] == 7).all()


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_halves_are_rounded_to_nearest_and_followed_by_zeros(dtype):
    values = table(6)[:COUNT]

    def body(source, numbers, output):
        output[...] = jnp.full_like(output, 7)
        columns = tuple(source[:, column] for column in range(6))
        rows.write_halves(output, numbers[...], columns, interpret=True)

    made = interpreted(body, ((2 * COUNT, 8), dtype), values, ORDER)
    # Half a unit in the last of 8 or 11 bits.
    error = np.abs(made[ORDER, :6] - values)
    assert (error <= np.abs(values) * (2**-8 if dtype == jnp.bfloat16 else 2**-11) + 1e-7).all()
    assert not made[ORDER, 6:].any()
    others = np.setdiff1d(np.arange(2 * COUNT), ORDER)
    assert (made[others] == 7).all()


@pytest.mark.parametrize(
    ("columns", "access"), [(1, ""), (2, ".v2"), (3, ""), (4, ".v4"), (6, ".v2"), (8, ".v4")]
)
def test_a_row_is_read_in_the_widest_accesses_that_its_alignment_allows(columns, access):
    def body(source, output):
        order = plgpu.broadcasted_iota(jnp.int32, (COUNT,), 0, layout=rows.per_thread(COUNT))
        found = rows.read_rows(source, order, interpret=False)
        rows.write_rows(output, order, found, interpret=False)

    kernel = plgpu.kernel(
        body,
        out_type=jax.ShapeDtypeStruct((COUNT, columns), jnp.float32),
        compiler_params=plgpu.CompilerParams(lowering_semantics=plgpu.LoweringSemantics.Lane),
    )
    traced = jax.jit(kernel).trace(jnp.asarray(table(columns)))
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert f"ld.global.nc{access}.f32" in text
