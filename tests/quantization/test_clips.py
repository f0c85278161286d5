# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from PIL import Image

from flavr_jax.quantization import clips


@pytest.fixture
def folder(tmp_path):
    """A clip of 21 frames, whose red is the frame's number, green the row and blue the column."""
    path = tmp_path / "clips" / "count"
    path.mkdir(parents=True)
    rows, columns = np.indices((20, 34), dtype=np.uint8)
    for number in range(21):
        frame = np.stack([np.full_like(rows, number), rows, columns], axis=-1)
        Image.fromarray(frame).save(path / f"{number:02d}.png")
    return path


def reds(frames):
    return np.rint(frames[:, 0, 0, 0] * 255).tolist()


@pytest.mark.parametrize(
    ("n_inputs", "n_outputs", "inputs", "truth"),
    [
        (4, 1, [7, 9, 11, 13], [10]),  # 15 windows of 7 frames: the 8th
        (4, 7, [7, 9, 11, 13], [10]),  # an 8× network is asked for the middle frame alone
        (4, 2, [6, 9, 12, 15], [10, 11]),  # 12 windows of 10 frames: the 7th
        (6, 1, [5, 7, 9, 11, 13, 15], [10]),
        (2, 1, [9, 11], [10]),
        (3, 1, [8, 10, 12], [9]),  # the middle interval of three frames is the first
    ],
)
def test_the_truth_is_what_is_between_the_middle_inputs(folder, n_inputs, n_outputs, inputs, truth):
    (example,) = clips.of_clips([folder], n_inputs, n_outputs, windows=1, size=(16, 16))
    assert example.clip == "count"
    assert (reds(example.inputs), reds(example.truth)) == (inputs, truth)


def test_windows_spread_over_the_clip_and_never_repeat(folder):
    examples = clips.of_clips([folder.parent], 4, 1, windows=3, size=(16, 16))
    assert [reds(example.inputs)[0] for example in examples] == [2, 7, 12]
    everything = clips.of_clips([folder], 4, 1, windows=99, size=(16, 16))
    assert [reds(example.inputs)[0] for example in everything] == list(range(15))


def test_frames_are_cut_from_the_centre_in_multiples_of_8(folder):
    (example,) = clips.of_clips([folder], 4, 1, windows=1, size=(256, 24))
    assert example.inputs.shape == (4, 16, 24, 3)
    assert example.truth.shape == (1, 16, 24, 3)
    assert example.inputs.dtype == np.float32
    corner = np.rint(example.inputs[0, 0, 0, 1:] * 255)
    assert corner.tolist() == [2, 5]  # (20 − 16) / 2 and (34 − 24) / 2


def test_clips_that_are_too_short_or_small_are_named(folder, tmp_path):
    with pytest.raises(ValueError, match="count has 21 frames, but calibration needs 23"):
        clips.of_clips([folder], 12, 1, windows=1, size=(16, 16))
    with pytest.raises(ValueError, match="count has frames of 34×20 pixels"):
        clips.of_clips([folder], 4, 1, windows=1, size=(16, 7))
    with pytest.raises(FileNotFoundError):
        clips.of_clips([tmp_path / "none"], 4, 1, windows=1, size=(16, 16))


def test_drawn_windows_are_the_same_every_time_and_hold_the_frames_between():
    pair = clips.drawn(2, 3, count=2, size=(16, 24))
    four = clips.drawn(4, 1, count=2, size=(16, 24))
    assert [example.clip for example in pair] == ["synthetic 0", "synthetic 0"]  # two scenes of it
    for two, more in zip(pair, four):
        assert two.inputs.shape == (2, 16, 24, 3)
        assert two.truth.shape == (3, 16, 24, 3)
        assert np.abs(two.inputs - more.inputs[1:3]).max() < 1e-5  # the middle two of four
        assert np.abs(two.truth[1] - more.truth[0]).max() < 1e-5
    assert np.abs(pair[0].inputs - pair[1].inputs).max() > 0.1


def test_extremes_are_zeros_and_ones_with_every_contrast_in_space_and_time():
    windows = clips.extremes(4, (16, 40))
    assert windows.shape[1:] == (4, 16, 40, 3)
    assert windows.dtype == np.float32
    assert set(np.unique(windows)) == {0.0, 1.0}
    in_time = np.abs(np.diff(windows, axis=1)).mean(axis=(1, 2, 3, 4))
    in_space = np.abs(np.diff(windows, axis=3)).mean(axis=(1, 2, 3, 4))
    assert ((in_time == 1) & (in_space == 0)).any()  # a flash
    assert ((in_time == 0) & (in_space == 1)).any()  # a still checkerboard
    assert ((in_time == 1) & (in_space == 1)).any()  # one that is inverted in every frame
