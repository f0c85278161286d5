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


def test_an_unknown_baseline_is_named_beside_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown baseline film, sepconv; known are 'nearest-fra"):
        baselines.check(["sepconv", "frame-averaging", "film"])
    baselines.check(baselines.BASELINES)
    baselines.check([])


def test_baselines_that_need_nothing_can_always_run():
    assert baselines.available("nearest-frame")
    assert baselines.available("frame-averaging")


@pytest.mark.parametrize("name", ["nearest-frame", "frame-averaging", "ffmpeg-minterpolate"])
@pytest.mark.parametrize("factor", [2, 4])
def test_a_baseline_makes_every_frame_between_as_floats_in_range(name, factor):
    if not baselines.available(name):
        pytest.skip("PyAV without minterpolate")
    frames = np.random.default_rng(0).integers(0, 256, (5 * factor + 1, 32, 48, 3), np.uint8)
    sequence = regular(Clip(frames), factor)
    made = list(baselines.BASELINES[name](sequence))
    assert len(made) == len(sequence) == 3
    for prediction in made:
        assert prediction.shape == (factor - 1, 32, 48, 3)
        assert prediction.dtype == np.float32
        assert 0 <= prediction.min() <= prediction.max() <= 1


def test_what_stands_still_stays_as_it_is_in_every_baseline():
    still = np.random.default_rng(0).integers(60, 196, (1, 4, 6, 3)).repeat(8, 1).repeat(8, 2)
    sequence = regular(Clip(np.broadcast_to(still, (9, 32, 48, 3)).astype(np.uint8)), 2)
    for name in ("nearest-frame", "frame-averaging", "dis-flow-warp", "ffmpeg-minterpolate"):
        if baselines.available(name):
            for prediction in baselines.BASELINES[name](sequence):
                # The filter works on 4:2:0, which mixes the colours of neighbours.
                allowed = 40 if name == "ffmpeg-minterpolate" else 0.51
                assert np.abs(255 * prediction - still).max() <= allowed


def test_without_the_filter_minterpolate_says_what_to_do(pan, monkeypatch):
    monkeypatch.setattr(baselines.av.filter, "filters_available", set())
    assert not baselines.available("ffmpeg-minterpolate")
    with pytest.raises(ValueError, match="no minterpolate filter; leave it out of --baselines"):
        next(baselines.minterpolate(pan))
