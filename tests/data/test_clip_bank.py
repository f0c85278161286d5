# SPDX-License-Identifier: Apache-2.0
import av
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flavr_jax.data import clip_bank

TIMES = jnp.array([0.0, 1.0, 2.0, 3.0, *(1.0 + np.arange(1, 8) / 8)])


def table(*, start=0, length=60, width=64, spacing=2):
    integers = (jnp.array([value], jnp.int32) for value in (start, length, width, spacing))
    return clip_bank.SamplingTable(*integers, log_weight=jnp.zeros(1))


@jax.jit
def draw_windows(keys, frames, rows):
    return jax.vmap(lambda key: clip_bank.draw(key, TIMES, (32, 32), frames, rows))(keys)


@pytest.fixture(scope="module")
def keys():
    return jax.random.split(jax.random.key(0), 32)


@pytest.fixture(scope="module")
def counting():
    """Frames of uniform grey; frame i has value i."""
    return jnp.broadcast_to(jnp.arange(120, dtype=jnp.uint8)[:, None, None, None], (120, 40, 64, 3))


def write_clip(path, frames, rate=30):
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264rgb", rate=rate, options={"qp": "0"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "rgb24"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def test_which_frames_were_filmed_is_known_without_a_window(keys, counting):
    rows = jax.tree.map(lambda *each: jnp.concatenate(each), table(spacing=2), table(spacing=4))
    _, told = draw_windows(keys, counting, rows)
    known = jax.vmap(lambda key: clip_bank.filmed(key, TIMES, rows))(keys)
    np.testing.assert_array_equal(known, told)
    assert len({tuple(row) for row in np.asarray(told)}) == 2  # both spacings were drawn


def test_all_frames_of_a_window_share_one_transform(keys):
    picture = np.random.default_rng(0).integers(0, 256, (1, 40, 64, 3), dtype=np.uint8)
    frames = jnp.asarray(np.repeat(picture, 60, axis=0))
    windows, _ = draw_windows(keys, frames, table())
    np.testing.assert_array_equal(windows, np.repeat(windows[:, :1], len(TIMES), axis=1))
    assert np.abs(np.diff(windows[:, 0], axis=0)).mean(axis=(1, 2, 3)).min() > 0.05  # they do vary


@pytest.mark.parametrize(
    ("spacing", "filmed_eighths"), [(2, [4]), (4, [2, 4, 6]), (6, [4]), (8, [1, 2, 3, 4, 5, 6, 7])]
)
def test_targets_that_were_filmed_are_unmasked_and_show_their_moment(
    keys, counting, spacing, filmed_eighths
):
    windows, filmed = draw_windows(keys, counting, table(spacing=spacing))
    expected = [float(eighth in filmed_eighths) for eighth in range(1, 8)]
    np.testing.assert_array_equal(filmed[:, 4:], np.tile(expected, (32, 1)))
    np.testing.assert_array_equal(filmed[:, :4], 1.0)
    # Colours change affinely, so ratios of differences equal those of times.
    values = np.asarray(windows.mean(axis=(2, 3, 4)), np.float64)
    values = values[values.min(axis=1) > 0.01]  # leave out windows whose blacks were clipped
    assert len(values) > 8
    progress = (values - values[:, 1:2]) / (values[:, 2:3] - values[:, 1:2])
    for column, (time, known) in enumerate(zip(np.asarray(TIMES), np.asarray(filmed[0]))):
        if known:
            np.testing.assert_allclose(progress[:, column], time - 1.0, atol=1e-3)


def test_windows_run_forwards_and_backwards(keys, counting):
    windows, _ = draw_windows(keys, counting, table())
    rising = np.asarray(windows[:, 3].mean(axis=(1, 2, 3)) > windows[:, 0].mean(axis=(1, 2, 3)))
    assert 4 < rising.sum() < 28


def test_a_window_stays_within_its_clip_and_its_filmed_columns(keys):
    frames = np.zeros((60, 40, 64, 3), np.uint8)
    frames[20:40, :, :48] = 128
    windows, _ = draw_windows(keys, jnp.asarray(frames), table(start=20, length=20, width=48))
    assert np.asarray(windows).min() > 0.3


def test_clips_that_move_are_drawn_more_often_than_still_ones():
    rng = np.random.default_rng(0)
    still = np.repeat(rng.integers(0, 256, (1, 40, 64, 3), dtype=np.uint8), 30, axis=0)
    wide = rng.integers(90, 170, (1, 10, 38, 3), dtype=np.uint8).repeat(4, 1).repeat(4, 2)
    moving = np.stack([wide[0, :, 2 * i : 2 * i + 64] for i in range(30)])
    bank = clip_bank.ClipBank(
        np.concatenate([still, moving]),
        start=np.array([0, 30]),
        length=np.array([30, 30]),
        width=np.array([64, 64]),
    )
    rows = clip_bank.tabulate(bank)
    weight = np.exp(np.asarray(rows.log_weight))
    is_moving = np.asarray(rows.start) == 30
    assert weight[is_moving].sum() > 5 * weight[~is_moving].sum()
    assert (3 * np.asarray(rows.spacing) < np.asarray(rows.length)).all()


def bank_of(*clips, width=32):
    lengths = [len(clip) for clip in clips]
    start = np.cumsum([0, *lengths[:-1]])
    return clip_bank.ClipBank(
        np.concatenate(clips), start, np.array(lengths), np.full(len(clips), width)
    )


def test_the_weight_of_a_row_is_that_of_the_formula():
    blinking = np.zeros((20, 16, 32, 3), np.uint8)
    blinking[1::2] = 51  # every second frame has 0.2
    rows = clip_bank.tabulate(bank_of(blinking))
    # Frames an even distance apart are equal; with spacings of 4 and more, all three are. A clip
    # of 20 frames has 14 windows of spacing 2, 8 of 4 and 2 of 6, and none that is longer.
    assert rows.spacing.tolist() == [2, 4, 6]
    error, windows = np.array([0.2, 1e-4, 0.2]), np.array([14, 8, 2])
    expected = np.sqrt(windows) * error * np.exp(-error / 0.04)
    np.testing.assert_allclose(np.exp(rows.log_weight), expected, rtol=1e-4)


def test_short_clips_have_no_row_and_the_mirrored_padding_does_not_count():
    still = np.full((7, 16, 32, 3), 90, np.uint8)
    flicker = np.random.default_rng(0).integers(0, 256, (7, 16, 12, 3), dtype=np.uint8)
    still[:, :, 20:] = flicker
    rows = clip_bank.tabulate(bank_of(still[:6], still, width=20))
    assert (rows.start.tolist(), rows.length.tolist(), rows.width.tolist()) == ([6], [7], [20])
    assert float(rows.log_weight[0]) == pytest.approx(np.log(1e-4), abs=0.01)
    with pytest.raises(ValueError, match="every clip is too short; a window spans 7 frames"):
        clip_bank.tabulate(bank_of(still[:6], still[:3]))


def test_wide_clips_lose_as_many_columns_on_both_sides(tmp_path):
    wide = np.random.default_rng(0).integers(0, 256, (2, 32, 96, 3), dtype=np.uint8)
    write_clip(tmp_path / "a.mp4", wide)
    bank = clip_bank.read_folder(tmp_path, height=32, width=64)
    np.testing.assert_array_equal(bank.frames, wide[:, :, 16:80])
    assert list(bank.width) == [64]


def test_a_folder_becomes_one_array_with_portraits_turned_and_narrow_clips_mirrored(tmp_path):
    rng = np.random.default_rng(0)
    landscape = rng.integers(0, 256, (3, 32, 48, 3), dtype=np.uint8)
    portrait = rng.integers(0, 256, (5, 64, 32, 3), dtype=np.uint8)
    write_clip(tmp_path / "a.mp4", landscape)
    write_clip(tmp_path / "b.mp4", portrait)
    bank = clip_bank.read_folder(tmp_path, height=32, width=64, workers=2)
    assert bank.frames.shape == (8, 32, 64, 3)
    assert (list(bank.start), list(bank.length), list(bank.width)) == ([0, 3], [3, 5], [48, 64])
    np.testing.assert_array_equal(bank.frames[:3, :, :48], landscape)
    np.testing.assert_array_equal(bank.frames[:3, :, 48:], landscape[:, :, :31:-1])
    np.testing.assert_array_equal(bank.frames[3:], np.rot90(portrait, axes=(1, 2)))


def test_an_empty_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no \.mp4"):
        clip_bank.read_folder(tmp_path)
