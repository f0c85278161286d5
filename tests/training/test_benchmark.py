# SPDX-License-Identifier: Apache-2.0
import jax.numpy as jnp
import pytest

from flavr_jax.config import ModelConfig
from flavr_jax.training import benchmark
from flavr_jax.training.benchmark import Case, Measurement


def test_speed_and_cost_follow_from_the_times_of_steps():
    case = Case(ModelConfig(), devices=2, batch=24)
    found = Measurement("flavr_jax", case, 0.1, 0.103, 1.0)
    assert found.windows_per_second == pytest.approx(480)
    assert found.reading_cost == pytest.approx(0.03)
    assert Measurement("flavr_jax", case, 0.1, None, 1.0).reading_cost is None


def test_both_kinds_of_steps_are_timed_on_batches_of_their_own(tmp_path, monkeypatch):
    pytest.importorskip("grain", reason="reading data sets is an extra")
    clips = benchmark.write_clips(tmp_path, "ppm", count=2)
    assert (len(clips[0]), clips[0].read(0).shape) == (7, (256, 448, 3))
    seen = []

    def run(current, shared, own):
        seen.append(float(own["fetched"].inputs.mean()))
        return current, {"loss": jnp.zeros(())}

    # Compiling the network takes long.
    monkeypatch.setattr(benchmark, "_compile", lambda case: (run, 1.5))
    case = Case(ModelConfig(width=4), batch=1, crop=16)
    (found,) = benchmark.measure([case], clips, seconds=0.0, workers=0)
    assert found.compile_seconds == 1.5
    assert found.fixed_seconds > 0
    assert found.read_seconds is not None
    # Three rounds of 1 + 3 + 3 steps of each kind; what is read differs from step to step.
    assert len(seen) == 2 * 3 * 7
    assert len(set(seen[:7])) == 1
    assert len(set(seen[7:14])) > 1
