# SPDX-License-Identifier: Apache-2.0
import pytest

from flavr_jax.config import ModelConfig
from flavr_jax.training.benchmark import Case, Measurement, measure, write_clips


def test_speed_and_cost_follow_from_the_times_of_steps():
    case = Case(ModelConfig(), devices=2, batch=24)
    found = Measurement("flavr_jax", case, 0.1, 0.103, 1.0)
    assert found.windows_per_second == pytest.approx(480)
    assert found.reading_cost == pytest.approx(0.03)
    assert Measurement("flavr_jax", case, 0.1, None, 1.0).reading_cost is None


def test_both_kinds_of_steps_run_and_take_time(tmp_path):
    pytest.importorskip("grain", reason="reading data sets is an extra")
    clips = write_clips(tmp_path, "ppm", count=2)
    assert (len(clips[0]), clips[0].read(0).shape) == (7, (256, 448, 3))
    case = Case(ModelConfig(width=4), batch=1, crop=16)
    (found,) = measure([case], clips, seconds=0.01, workers=0)
    assert found.fixed_seconds > 0
    assert found.read_seconds is not None
    assert found.read_seconds > 0
