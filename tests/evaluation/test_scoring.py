# SPDX-License-Identifier: Apache-2.0
import dataclasses
import time

import numpy as np
import pytest

from flavr_jax import evaluation
from flavr_jax.data.sequences import regular

PSNR = {name: evaluation.METRICS[name] for name in ("psnr_flavr", "psnr_uint8")}


@dataclasses.dataclass
class Clip:
    name: str
    frames: np.ndarray

    def __len__(self):
        return len(self.frames)

    def read(self, index):
        return self.frames[index]

    def encoded(self, index):
        raise NotImplementedError


def black(name, n_frames, factor):
    return regular(Clip(name, np.zeros((n_frames, 8, 8, 3), np.uint8)), factor)


def numbered_outputs(windows):
    """A network of factor 8 whose k-th frame is filled with k/8."""
    eighths = np.arange(1, 8, dtype=np.float32)[None, :, None, None, None] / 8
    return np.broadcast_to(eighths, (1, 7, *windows.shape[2:]))


@pytest.mark.parametrize(
    ("factor", "times"),
    [(2, [4 / 8]), (4, [2 / 8, 4 / 8, 6 / 8]), (8, np.arange(1, 8) / 8)],
)
def test_an_8x_network_is_scored_at_the_times_of_the_sequence(factor, times):
    method = evaluation.method_of_network(numbered_outputs, 7)
    first = next(iter(method(black("a", 25, factor))))
    np.testing.assert_allclose(first[:, 0, 0, 0], times)


def test_a_factor_that_the_network_cannot_give_is_refused():
    method = evaluation.method_of_network(numbered_outputs, 3)
    with pytest.raises(ValueError, match=r"factor 4.*read for factor 8"):
        next(iter(method(black("a", 25, 8))))


def test_means_are_over_frames_or_over_sequences_as_the_protocol_has_it():
    sequences = [black("long", 13, 2), black("short", 7, 2)]  # 4 windows and 1

    def off_by_a_tenth_or_a_hundredth(sequence):
        for _ in sequence.windows():
            yield np.full((1, 8, 8, 3), {"long": 0.1, "short": 0.01}[sequence.clip.name])

    samples = evaluation.score(off_by_a_tenth_or_a_hundredth, sequences, PSNR)
    assert len(samples) == 5
    by_sequence = evaluation.means_of_sequences(samples)
    assert by_sequence["long"]["psnr_flavr"] == pytest.approx(20.0, abs=1e-3)
    assert by_sequence["short"]["psnr_flavr"] == pytest.approx(40.0, abs=1e-3)
    assert evaluation.mean(samples, "sequences")["psnr_flavr"] == pytest.approx(30.0, abs=1e-3)
    assert evaluation.mean(samples, "samples")["psnr_flavr"] == pytest.approx(24.0, abs=1e-3)


def test_every_frame_of_a_window_is_a_sample_with_its_time():
    samples = evaluation.score(evaluation.method_of_network(numbered_outputs, 7),
                               [black("a", 33, 8)], PSNR)  # fmt: skip
    assert [(s.window, s.time) for s in samples] == [
        (w, k / 8) for w in (0, 1) for k in range(1, 8)
    ]
    expected = -20 * np.log10(np.arange(1, 8) / 8)
    found = [sample.values["psnr_flavr"] for sample in samples[:7]]
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_seconds_a_frame_leave_out_reading_compilation_and_scoring():
    class Slow(Clip):
        def read(self, index):
            time.sleep(0.05)
            return self.frames[index]

    calls = []

    def method(sequence):
        for _ in sequence.windows():
            time.sleep(0.5 if not calls else 0.03)
            calls.append(sequence)
            yield np.zeros((3, 8, 8, 3), np.float32)

    sequence = regular(Slow("slow", np.zeros((17, 8, 8, 3), np.uint8)), 4)
    samples = evaluation.score(method, [sequence], PSNR, warm_up=True)
    assert len(calls) == 3  # a warm-up and two windows
    assert 0.01 <= evaluation.mean(samples)["seconds"] < 0.03


def test_sequences_without_truth_are_predicted_and_shown_but_not_scored():
    sequence = dataclasses.replace(black("a", 7, 2), targets=())
    shown = []
    assert not evaluation.score(evaluation.method_of_network(numbered_outputs, 7), [sequence],
                                watch=[lambda *window: shown.append(window)])  # fmt: skip
    [(outcome, samples)] = shown
    assert outcome.prediction[0, 0, 0, 0] == 0.5
    assert samples == []


def test_boundaries_are_scored_on_the_end_intervals_with_made_up_context():
    frames = np.broadcast_to(np.arange(9, dtype=np.uint8)[:, None, None, None] * 20, (9, 8, 8, 3))

    def outer_frames_mean(windows):
        """Exact on a ramp when the outer frames continue it; 7 equal outputs."""
        return np.repeat((windows[:, :1] + windows[:, 3:]) / 2, 7, axis=1)

    scores = evaluation.score_boundaries(outer_frames_mean, 7, [regular(Clip("ramp", frames), 2)])
    assert set(scores) == {"mirror", "duplicate", "extrapolate"}
    found = {name: evaluation.mean(samples)["psnr_flavr"] for name, samples in scores.items()}
    # Clipped at black, the first frame cannot be extrapolated; the last one can, exactly (80 dB).
    # Duplicates are off by half a step of 40, mirrored frames by a whole one.
    half_a_step = -20 * np.log10(40 / 255 / 2)
    assert found["extrapolate"] == pytest.approx((half_a_step + 80) / 2, abs=0.1)
    assert found["duplicate"] == pytest.approx(half_a_step, abs=0.1)
    assert found["mirror"] == pytest.approx(-20 * np.log10(40 / 255), abs=0.1)


def test_boundaries_need_frames_inside_the_end_intervals():
    septuplet = black("a", 7, 2)
    sparse = dataclasses.replace(septuplet, inputs=(0, 1, 3, 4))
    with pytest.raises(ValueError, match="no end intervals with known frames"):
        evaluation.score_boundaries(numbered_outputs, 7, [sparse])
