# SPDX-License-Identifier: Apache-2.0
import time

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
