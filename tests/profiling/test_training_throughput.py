# SPDX-License-Identifier: Apache-2.0
import json
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flavr_jax.config import ModelConfig
from flavr_jax.profiling import training_throughput
from flavr_jax.profiling.training_throughput import Measurement, TrainingCase


def test_speed_and_cost_follow_from_the_times_of_steps():
    case = TrainingCase(ModelConfig(), devices=2, batch=24)
    found = Measurement("flavr_jax", case, 0.1, 0.103, 1.0)
    assert found.windows_per_second == pytest.approx(480)
    assert found.reading_cost == pytest.approx(0.03)
    assert Measurement("flavr_jax", case, 0.1, None, 1.0).reading_cost is None


def test_both_kinds_of_steps_are_timed_on_batches_of_their_own(tmp_path, monkeypatch):
    pytest.importorskip("grain", reason="reading data sets is an extra")
    clips = training_throughput.write_clips(tmp_path, "ppm", count=2)
    assert (len(clips[0]), clips[0].read(0).shape) == (7, (256, 448, 3))
    seen = []

    def run(current, shared, own):
        seen.append(float(own.fetched.inputs.mean()))
        return current, {"loss": jnp.zeros(())}

    reading, taken = training_throughput._reading, []

    def counted(*arguments):
        for batch in reading(*arguments):
            taken.append(batch)
            yield batch

    monkeypatch.setattr(training_throughput, "_reading", counted)
    # Compiling the network takes long.
    monkeypatch.setattr(training_throughput, "_compile", lambda case: (run, 1.5))
    case = TrainingCase(ModelConfig(width=4), batch=1, crop=16)
    (found,) = training_throughput.measure([case], clips, seconds=0.0, workers=0)
    assert found.compile_seconds == 1.5
    assert found.fixed_seconds > 0
    assert found.read_seconds is not None
    # The first step, a warm-up of three, three rounds of three; what is read differs from step to
    # step, and what a loader without processes may have in store was read before.
    fixed, read = seen[: 1 + 3 + 9], seen[1 + 3 + 9 :]
    assert len(set(fixed)) == 1
    assert len(read) == 1 + 3 + 9
    assert len(set(read)) > 1
    assert len(taken) == 4 + len(read)


def test_the_textures_move_by_four_and_eight_pixels_and_compress_as_photographs_do(tmp_path):
    (clip,) = training_throughput.write_clips(tmp_path, "png", count=1)
    first, second = (clip.read(number) for number in range(2))
    np.testing.assert_array_equal(second[:-4, :-8], first[4:, 8:])
    # PNG takes 3 to 5 of 8 bits a channel for photographs; noise would take all of them.
    size = sum(path.stat().st_size for path in tmp_path.rglob("*.png")) / 7
    assert 0.35 < size / first.size < 0.75


@pytest.mark.parametrize("devices", [1, 2])
def test_the_benchmarks_batch_is_of_the_size_of_the_case(devices):
    case = TrainingCase(ModelConfig(width=4, n_outputs=3), devices, batch=2, crop=16)
    batch = training_throughput._noise(case)
    assert batch.inputs.shape == (2 * devices, 4, 16, 16, 3)
    assert batch.targets.shape == (2 * devices, 3, 16, 16, 3)
    assert batch.weights.all()
    for one, other in zip(batch, training_throughput._noise(case), strict=True):
        np.testing.assert_array_equal(one, other)
    assert training_throughput._inputs(case, (), 0).batch_size == 2 * devices


def test_a_round_is_as_long_as_was_asked_and_the_median_counts(monkeypatch):
    now, steps = [0.0], []
    durations = iter([5.0] + [0.1] * 3 + [0.1] * 10 + [0.3] * 10 + [0.2] * 10)

    def step():
        steps.append(next(durations))
        now[0] += steps[-1]

    monkeypatch.setattr(training_throughput.time, "perf_counter", lambda: now[0])
    # One step that sets up, three that tell how many make a second, three rounds of ten.
    found = training_throughput.rounds(step, lambda: None, 1.0)
    assert len(steps) == 1 + 3 + 30
    assert found == pytest.approx(0.2)


def test_a_measurement_is_json_with_what_follows_from_it():
    case = TrainingCase(ModelConfig(), devices=2, batch=24)
    found = json.loads(json.dumps(Measurement("flavr_jax", case, 0.1, 0.103, 1.0).figures()))
    assert found["case"]["devices"] == 2
    assert found["windows_per_second"] == pytest.approx(480)
    assert found["reading_cost"] == pytest.approx(0.03)


def test_a_case_that_does_not_fit_is_left_out_and_named(monkeypatch, caplog):
    def compile_step(case):
        if case.model.width == 64:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory\nand more")
        return lambda current, shared, own: (current, {"loss": jnp.zeros(())}), 1.5

    monkeypatch.setattr(training_throughput, "_compile", compile_step)
    cases = [TrainingCase(ModelConfig(width=width), batch=1, crop=16) for width in (64, 4)]
    (found,) = training_throughput.measure(cases, (), seconds=0.0, workers=0)
    assert found.case.model.width == 4
    assert caplog.messages == ["width 64 on 1 device left out: RESOURCE_EXHAUSTED: Out of memory"]


def test_a_peer_is_timed_by_its_own_clock_on_one_device():
    class Sleeper:
        def __init__(self, config, params, inputs, targets, weights):
            assert inputs.shape == (2, 4, 16, 16, 3)
            assert targets.shape == (2, 1, 16, 16, 3)
            assert weights.shape == (2, 1)
            self.issued = 0

        def step(self):
            self.issued += 1

        def wait(self):
            time.sleep(0.01 * self.issued)
            self.issued = 0

        def close(self):
            closed.append(self)

    closed = []
    cases = [TrainingCase(ModelConfig(width=4), devices, batch=2, crop=16) for devices in (1, 2)]
    (found,) = training_throughput.measure_peer(
        "sleeper", Sleeper, cases, (), seconds=0.05, workers=0
    )
    assert (found.implementation, found.case, found.read_seconds) == ("sleeper", cases[0], None)
    assert found.fixed_seconds == pytest.approx(0.01, rel=0.3)
    assert len(closed) == 1


def test_a_peer_gets_one_target_of_each_window_and_its_index():
    case = TrainingCase(ModelConfig(width=4, n_outputs=7), batch=9, crop=16, one_target=True)
    inputs, targets, weights, outputs = training_throughput._peers_batch(case)
    whole = training_throughput._noise(case)
    assert (inputs == whole.inputs).all()
    assert (targets[:, 0] == whole.targets[np.arange(9), outputs[:, 0]]).all()
    assert len(set(outputs[:, 0].tolist())) > 1
    assert weights.tolist() == [[1.0]] * 9
    assert training_throughput._inputs(case, (), 0).config.one_target
