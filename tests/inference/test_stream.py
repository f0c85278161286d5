# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from flavr_jax.inference import stream
from flavr_jax.inference.windows import extend


@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("factor", [1, 2, 8, 16])
def test_every_interval_is_filled_and_originals_pass_through(
    blending_network, clip, n, factor, batch
):
    frames = clip(n)
    result = list(stream.interpolate(iter(frames), blending_network, factor, batch=batch))
    assert len(result) == (n - 1) * factor + 1
    assert np.array_equal(np.stack(result[::factor]), frames)


def test_the_batch_size_does_not_change_the_result(random_network, clip):
    frames = clip(7, 8, 8)
    one = np.stack(list(stream.interpolate(frames, random_network, 8, batch=1)))
    four = np.stack(list(stream.interpolate(frames, random_network, 8, batch=4)))
    # Float sums may round differently; a level of 255 is the rounding of the result itself.
    assert np.abs(one.astype(int) - four).max() <= 1
    assert (one != four).mean() < 0.01


def test_no_frames_give_no_frames(blending_network):
    assert list(stream.interpolate([], blending_network, 8)) == []


def test_a_wrong_factor_is_refused_before_any_frame_is_read(blending_network):
    def frames():
        raise AssertionError("a frame was read")
        yield

    with pytest.raises(ValueError, match="`factor` is 5"):
        stream.interpolate(frames(), blending_network, 5)


def test_frames_come_out_before_many_more_are_read(blending_network, clip):
    read = 0

    def frames():
        nonlocal read
        for frame in clip(40, 8, 8):
            read += 1
            yield frame

    lag = 0
    for count, _ in enumerate(stream.interpolate(frames(), blending_network, 16, batch=2)):
        lag = max(lag, read - count // 16)
    assert lag <= 12


def test_mirrored_ends_run_backwards():
    frames = [np.full((1, 1, 3), i, np.uint8) for i in (10, 20, 40)]
    values = [int(frame[0, 0, 0]) for frame in extend(frames, 2, 2, "mirror")]
    assert values == [40, 20, 10, 20, 40, 20, 10]


def test_duplicated_ends_stand_still():
    frames = [np.full((1, 1, 3), i, np.uint8) for i in (10, 20)]
    values = [int(frame[0, 0, 0]) for frame in extend(frames, 2, 1, "duplicate")]
    assert values == [10, 10, 10, 20, 20]


def test_extrapolated_ends_go_on_and_stay_colours():
    frames = [np.full((1, 1, 3), i, np.uint8) for i in (10, 30, 240)]
    values = [int(frame[0, 0, 0]) for frame in extend(frames, 2, 1, "extrapolate")]
    assert values == [0, 0, 10, 30, 240, 255]


@pytest.mark.parametrize("boundary", ["mirror", "duplicate", "extrapolate"])
def test_a_single_frame_is_its_own_context(boundary):
    frame = np.full((1, 1, 3), 7, np.uint8)
    values = [int(f[0, 0, 0]) for f in extend([frame], 2, 3, boundary)]
    assert values == [7] * 6
