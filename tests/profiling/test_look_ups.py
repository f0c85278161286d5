# SPDX-License-Identifier: Apache-2.0
"""Times of look-ups: which rows there are, and the bytes that they are compared with."""

import pytest

from flavr_jax.commands import benchmark
from flavr_jax.profiling import look_ups
from flavr_jax.profiling.timing import Ceilings


def test_the_roofline_counts_every_array_once():
    # 2 images and 7 results and residuals of 3 values, 14 displacements of 2 and 14 weights.
    values = 8 * 16 * (2 * 3 + 2 * 7 * 3 + 14 * 2 + 14)
    assert look_ups.bytes_moved(1, (8, 16)) == 4 * values
    row = look_ups.roofline(3, (8, 16), Ceilings(1.0, 2.0))
    assert row.timing.median == pytest.approx(3 * 4 * values / 2e12 * 1e3)


def test_look_ups_and_steps_are_timed_instead_of_the_network(monkeypatch, capsys):
    monkeypatch.setattr(benchmark.timing, "measure_ceilings", lambda dtype: Ceilings(0.05, 0.01))
    options = benchmark.Options(
        look_ups=True, size=(16, 32), implementations=("xla", "reference"), repeats=2
    )
    benchmark.main(options)
    _, *rows = capsys.readouterr().out.splitlines()
    assert [row.partition(":")[0] for row in rows] == [
        "look-up, roofline of bytes",
        "look-up xla",
        "look-up, step xla",
        "look-up reference",
        "look-up, step reference",
    ]
    assert all(float(row.partition(": ")[2].split()[0]) > 0 for row in rows)
