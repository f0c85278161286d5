# SPDX-License-Identifier: Apache-2.0
"""Copies to the host have the values of the array, whichever memory they are in."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flavr_jax.inference import downloads


@pytest.fixture
def made():
    """An array and, computed on the host, its values."""
    numbers = np.random.default_rng(0).integers(0, 256, (2, 3, 50), np.uint8)
    return jnp.asarray(numbers) + 1, numbers + np.uint8(1)


def test_a_copy_has_the_values_of_the_array(made):
    array, expected = made
    started = downloads.started(array)
    copy = downloads.finished(started)
    np.testing.assert_array_equal(copy, expected)
    del array, started
    np.testing.assert_array_equal(copy, expected)  # it does not need the array any more
    assert not copy.flags.writeable


def test_page_locked_memory_is_read_in_place(made):
    array, expected = made
    locked = jax.device_put(array, array.sharding.with_memory_kind("pinned_host"))
    copies = [downloads.finished(locked) for _ in range(2)]
    np.testing.assert_array_equal(copies[0], expected)
    assert np.shares_memory(copies[0], copies[1])
    del locked, array
    np.testing.assert_array_equal(copies[1], expected)


@pytest.mark.gpu
def test_a_gpu_copies_into_page_locked_memory(made):
    assert downloads.started(made[0]).sharding.memory_kind == "pinned_host"
