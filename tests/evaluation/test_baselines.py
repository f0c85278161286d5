# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from flavr_jax.data.sequences import regular
from flavr_jax.evaluation import baselines


class Clip:
    name = "drawn"

    def __init__(self, frames):
        self._frames = frames

    def __len__(self):
        return len(self._frames)

    def read(self, index):
        return self._frames[index]

    def encoded(self, index):
        raise NotImplementedError


@pytest.fixture(scope="module")
def pan():
    """A picture of blocks that moves 2 pixels a frame."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(40, 216, (16, 24, 1)).repeat(3, axis=2).astype(np.uint8)
    picture = coarse.repeat(8, axis=0).repeat(8, axis=1)  # [128, 192, 3]
    return regular(Clip(np.stack([picture[:, 2 * i : 2 * i + 128] for i in range(25)])), 2)


def error(method, sequence):
    """Mean absolute error away from the edges, where nothing comes into view."""
    inner = np.s_[:, 32:-32, 32:-32]
    predictions, truths = list(method(sequence)), list(sequence.truths())
    assert len(predictions) == len(truths) == 10
    return np.mean([np.abs(p[inner] - t[inner] / 255).mean() for p, t in zip(predictions, truths)])


def test_averaging_is_exact_on_a_linear_fade():
    fade = np.broadcast_to(np.arange(33, dtype=np.uint8)[:, None, None, None], (33, 8, 8, 3))
    predictions = list(baselines.average(regular(Clip(fade), 8)))
    assert len(predictions) == 2
    for start, prediction in zip((0, 8), predictions):
        expected = (start + 8 + np.arange(1, 8)) / 255
        np.testing.assert_allclose(prediction.mean(axis=(1, 2, 3)), expected, atol=1e-6)


def test_repetition_shows_the_nearer_frame_and_half_way_the_one_before():
    ramp = np.broadcast_to(np.arange(25, dtype=np.uint8)[:, None, None, None], (25, 8, 8, 3))
    [prediction] = baselines.repeat(regular(Clip(ramp), 8))
    found = (255 * prediction[:, 0, 0, 0]).round()
    np.testing.assert_array_equal(found, [8, 8, 8, 8, 16, 16, 16])


def test_flow_follows_a_panning_picture(pan):
    pytest.importorskip("cv2", reason="OpenCV is in the extra `metrics`")
    assert error(baselines.flow_warp, pan) < 0.2 * error(baselines.average, pan)


def test_flow_at_other_times_than_the_middle_follows_too(pan):
    pytest.importorskip("cv2", reason="OpenCV is in the extra `metrics`")
    quarters = regular(pan.clip, 4)
    prediction, truth = next(baselines.flow_warp(quarters)), next(quarters.truths()) / 255
    inner = np.s_[32:-32, 32:-32]
    for time in range(3):
        errors = [np.abs(prediction[time][inner] - other[inner]).mean() for other in truth]
        assert np.argmin(errors) == time


def test_minterpolate_follows_a_panning_picture(pan):
    if not baselines.available("ffmpeg-minterpolate"):
        pytest.skip("PyAV without minterpolate")
    assert error(baselines.minterpolate, pan) < 0.5 * error(baselines.average, pan)
