# SPDX-License-Identifier: Apache-2.0
import time

import numpy as np
import pytest

from flavr_jax.data.sequences import ArrayClip
from flavr_jax.profiling import data_throughput


def test_the_first_two_batches_do_not_count():
    calls = []

    def draw():
        calls.append(time.perf_counter())
        time.sleep(0.3 if len(calls) <= 2 else 0.02)  # the first compile, or fill a queue
        return np.zeros(1)

    rate = data_throughput.batches_per_second(draw, 0.2)
    assert rate == pytest.approx((len(calls) - 2) / (time.perf_counter() - calls[2]), rel=0.1)
    assert rate <= 50


def test_clips_of_one_size_become_a_bank_of_windows():
    rng = np.random.default_rng(0)
    found = [
        ArrayClip(name, rng.integers(0, 256, (length, 16, 24, 3), dtype=np.uint8))
        for name, length in (("a", 7), ("b", 9))
    ]
    real = data_throughput.bank(found)
    np.testing.assert_array_equal(real.frames[7:], found[1].frames)
    assert sorted(np.asarray(real.table.start).tolist()) == [0, 7]
    np.testing.assert_array_equal(real.table.width, 24)
