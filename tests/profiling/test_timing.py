# SPDX-License-Identifier: Apache-2.0
import time

import jax.numpy as jnp
import numpy as np
import pytest

from flavr_jax.profiling import timing


def test_the_median_and_the_quartiles_are_those_of_single_calls():
    times = timing.CallTimes((1.0, 2.0, 3.0, 4.0, 100.0), queued=1.5)
    assert times.median == 3.0
    assert times.quartiles == (1.5, 52.0)  # Python's exclusive method, by hand


def test_single_calls_are_waited_for_and_queued_ones_once_at_the_end():
    started, waited = [], []

    def start():
        started.append(len(started))
        return started[-1]

    def wait(result):
        waited.append(result)
        time.sleep(0.02)

    found = timing.measure(start, wait, 5, warm_up=2)
    # Two warm-ups and five timed calls are waited for; of five queued calls only the last one is.
    assert len(started) == 2 + 5 + 5
    assert waited == [*range(7), 11]
    assert len(found.milliseconds) == 5
    assert found.median >= 20
    assert 4 <= found.queued < found.median


def test_ceilings_follow_from_the_times_of_products_and_a_copy(monkeypatch):
    # On a CPU 8 products of 1024×1024 matrices in 8 ms, and 200 MB read and written in 8 ms.
    monkeypatch.setattr(timing, "measure", lambda *_: timing.CallTimes((8.0, 8.0), 8.0))
    monkeypatch.setattr(timing.jax, "default_backend", lambda: "cpu")
    found = timing.measure_ceilings(jnp.float32)
    assert found.tflops == pytest.approx(2 * 1024**3 / 1e-3 / 1e12)
    assert found.terabytes == pytest.approx(400e6 / 8e-3 / 1e12)


def test_the_products_that_are_timed_are_finite_in_half_precision(monkeypatch):
    results = []

    def measure(start, wait, repeats):
        results.append(np.asarray(start(), np.float32))
        return timing.CallTimes((1.0, 1.0), 1.0)

    monkeypatch.setattr(timing, "measure", measure)
    monkeypatch.setattr(timing.jax, "default_backend", lambda: "cpu")
    timing.measure_ceilings(jnp.float16)
    product = results[0]
    assert product.shape == (1024, 1024)
    assert np.isfinite(product).all()
    assert 0.5 < product.std() < 2
