# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import weakref
from fractions import Fraction

import av
import numpy as np
import pytest

from flavr_jax.inference import stream
from flavr_jax.inference.stream import Options, Summary
from flavr_jax.inference.windows import extend
from flavr_jax.video.frames import TimedFrame
from flavr_jax.video.pixels.colour import Colour, conversion, from_rgb, from_samples

pytestmark = pytest.mark.usefixtures("definition", "shallow")

FRAME = Fraction(1, 24)


def timed(frames, step=FRAME):
    for index, pixels in enumerate(frames):
        yield TimedFrame(np.asarray(pixels), index * step, step)


def made(frames, network, *arguments, **options):
    """The output's pictures, without looking for cuts in what is noise."""
    how = Options(*arguments, cut="ignore", **options)
    return [frame.pixels for frame in stream.interpolate(timed(frames), network, how)]


def drawing(index, size=(24, 40), seed=0):
    """Tiles of colours that belong to ``seed``, moved to the right with ``index``."""
    tiles = np.random.default_rng(seed).integers(0, 256, (9, 99, 3), np.uint8)
    rows, columns = np.arange(size[0]) // 8, (np.arange(size[1]) - 2 * index) // 8
    return tiles[rows[:, None], columns[None, :]]


@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("factor", [1, 2, 8, 16])
def test_every_interval_is_filled_and_originals_pass_through(
    blending_network, clip, n, factor, batch
):
    frames = clip(n)
    result = made(frames, blending_network, factor, batch=batch)
    assert len(result) == (n - 1) * factor + 1
    assert np.array_equal(np.stack(result[::factor]), frames)


def test_frames_of_the_input_are_given_out_whole(blending_network):
    frames = [
        TimedFrame(drawing(n), n * FRAME, FRAME, stored=av.VideoFrame(40, 24, "rgb24"))
        for n in range(3)
    ]
    result = list(stream.interpolate(frames, blending_network, Options(2)))
    assert [frame.original for frame in result[::2]] == [frame.original for frame in frames]
    assert [frame.original for frame in result[1::2]] == [None, None]
    assert [frame.pts for frame in result] == [n * FRAME / 2 for n in range(5)]
    assert [frame.duration for frame in result] == [FRAME / 2] * 4 + [FRAME]


def test_the_batch_size_does_not_change_the_result(random_network, clip):
    frames = clip(7, 8, 8)
    one = np.stack(made(frames, random_network, 8, batch=1))
    four = np.stack(made(frames, random_network, 8, batch=4))
    # Float sums may round differently; a level of 255 is the rounding of the result itself.
    assert np.abs(one.astype(int) - four).max() <= 1
    assert (one != four).mean() < 0.01


def test_no_frames_give_no_frames(blending_network):
    for options in (Options(8), Options(fps=Fraction(60)), Options(8, dedup=True)):
        assert list(stream.interpolate([], blending_network, options)) == []


def test_a_wrong_factor_is_refused_before_any_frame_is_read(blending_network):
    def frames():
        raise AssertionError("a frame was read")
        yield

    with pytest.raises(ValueError, match="`factor` is 5"):
        stream.interpolate(frames(), blending_network, Options(5))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"factor": 2, "fps": Fraction(60)}, "both set the frame rate"),
        ({"batch": 0}, "`batch` is 0"),
        ({"largest_error": Fraction(-1)}, "`largest_error` is -1"),
    ],
)
def test_options_that_cannot_be_met_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        print(Options(**options).timing)


@pytest.mark.parametrize("batch", [1, 3])
def test_a_cut_gets_no_mixture_and_changes_neither_counts_nor_times(blending_network, batch):
    frames = [drawing(n, seed=1 if n < 4 else 2) for n in range(9)]
    summary = Summary()
    result = list(
        stream.interpolate(
            timed(frames), blending_network, Options(8, batch=batch), summary=summary
        )
    )
    assert [frame.pts for frame in result] == [n * FRAME / 8 for n in range(65)]
    for number, frame in enumerate(result[24:33]):
        assert np.array_equal(frame.pixels, frames[3 if number <= 4 else 4])
    assert summary == Summary(9, 65, cuts=1)
    assert str(summary) == "9 frames → 65 frames, 1 cut kept"


def test_a_cut_may_be_mixed(blending_network):
    frames = [drawing(n, seed=1 if n < 4 else 2) for n in range(9)]
    options = Options(4, cut="blend")
    result = [one.pixels for one in stream.interpolate(timed(frames), blending_network, options)]
    first, second = frames[3].astype(float), frames[4].astype(float)
    for part in range(5):
        expected = first + (second - first) * part / 4
        assert np.abs(result[12 + part] - expected).max() <= 0.5


@pytest.mark.parametrize("cuts", [{1}, {8}, {1, 2}, set(range(1, 9))])
def test_cuts_anywhere_leave_every_original_at_its_time(blending_network, cuts):
    seeds = np.cumsum([n in cuts for n in range(9)]) * 10
    frames = [drawing(n, seed=seed) for n, seed in enumerate(seeds)]
    summary = Summary()
    result = list(stream.interpolate(timed(frames), blending_network, Options(2), summary=summary))
    assert len(result) == 17
    assert np.array_equal([one.pixels for one in result[::2]], frames)
    assert summary.cuts == len(cuts)
    assert summary.cut_times == [cut * FRAME for cut in sorted(cuts)]
    for cut in cuts:
        assert np.array_equal(result[2 * cut - 1].pixels, frames[cut - 1])


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_animation_on_twos_becomes_even_motion(blending_network, batch):
    drawings = [drawing(2 * n) for n in range(6)]
    frames = [drawings[n // 2] for n in range(12)]
    summary = Summary()
    options = Options(2, dedup=True, batch=batch)
    result = list(stream.interpolate(timed(frames), blending_network, options, summary=summary))
    assert [frame.pts for frame in result] == [n * FRAME / 2 for n in range(23)]
    for number in range(21):  # up to the last drawing, quarters of the way between drawings
        first, part = divmod(number, 4)
        second = drawings[min(first + 1, 5)].astype(float)
        expected = drawings[first] + (second - drawings[first]) * part / 4
        assert np.abs(result[number].pixels - expected).max() <= 1
    assert np.array_equal(result[-1].pixels, drawings[-1])
    assert summary.repeats == 5  # the last drawing's second frame is the clip's last


def test_film_in_30_frames_a_second_moves_evenly_again(blending_network):
    frames = [drawing((n * 4 + 3) // 5) for n in range(40)]
    options = Options(fps=Fraction(60), dedup=True, exact_times=True)
    result = stream.interpolate(timed(frames, Fraction(1, 30)), blending_network, options)
    for frame in result:
        # At second t, film shows what is 24 t pictures on.
        first, part = divmod(frame.pts * 24, 1)
        if first < 31:
            one, two = drawing(first).astype(float), drawing(first + 1).astype(float)
            assert np.abs(frame.pixels - (one + (two - one) * float(part))).max() <= 3


def test_a_still_clip_stays_still_and_needs_no_network(blending_network, monkeypatch):
    def compute(*arguments):
        raise AssertionError("the network was asked")

    frames = [drawing(0)] * 12
    monkeypatch.setattr(blending_network, "between", compute)
    options = Options(8, dedup=True)
    result = list(stream.interpolate(timed(frames), blending_network, options))
    assert len(result) == 11 * 8 + 1
    assert all(np.array_equal(frame.pixels, frames[0]) for frame in result)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("boundary", ["mirror", "extrapolate"])
def test_sixteen_bits_and_alpha_go_through(
    blending_network, monkeypatch, dtype, channels, boundary
):
    monkeypatch.setattr(blending_network, "boundary", boundary)
    most = np.iinfo(dtype).max
    frames = np.random.default_rng(0).integers(0, most, (4, 8, 8, channels), dtype, endpoint=True)
    result = made(frames, blending_network, 4)
    assert all(one.dtype == dtype and one.shape == (8, 8, channels) for one in result)
    for index in range(3):
        first, second = frames[index].astype(float), frames[index + 1].astype(float)
        for part in range(4):
            expected = first + (second - first) * part / 4
            assert np.abs(result[index * 4 + part] - expected).max() <= 0.51


def test_opaque_alpha_stays_opaque(random_network):
    frames = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 4), np.uint8)
    frames[..., 3] = 255
    assert all(np.all(one[..., 3] == 255) for one in made(frames, random_network, 2))


@pytest.mark.parametrize(
    "options",
    [
        Options(8, batch=2),
        Options(fps=Fraction(60), batch=2),
        Options(fps=Fraction(10), exact_times=True, batch=2),
        Options(2, dedup=True, batch=2),
    ],
    ids=["factor", "fps", "exact", "dedup"],
)
def test_memory_does_not_grow_with_the_clip(blending_network, options):
    class Pixels(np.ndarray):
        """An array that can be watched."""

        __hash__ = object.__hash__

    alive, most = weakref.WeakSet(), 0

    def frames():
        for frame in timed(drawing(n // 2, (8, 8)) for n in range(150)):
            pixels = frame.pixels.view(Pixels)
            alive.add(pixels)
            yield TimedFrame(pixels, frame.pts, frame.duration)

    for _ in stream.interpolate(frames(), blending_network, options):
        most = max(most, len(alive))
    assert 0 < most <= 40


def test_frames_come_out_before_many_more_are_read(blending_network, clip):
    read = 0

    def frames():
        nonlocal read
        for frame in timed(clip(40, 8, 8)):
            read += 1
            yield frame

    lag = 0
    options = Options(16, batch=2)
    for count, _ in enumerate(stream.interpolate(frames(), blending_network, options)):
        lag = max(lag, read - count // 16)
    assert lag <= 16


def test_a_broken_source_breaks_the_output(blending_network, clip):
    def broken():
        yield from timed(clip(3))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(stream.interpolate(broken(), blending_network, Options(2)))


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


@pytest.mark.parametrize(("factor", "made_again"), [(8, 0), (16, 5 * 7)])
def test_each_frame_is_uploaded_once_for_all_its_windows(
    blending_network, clip, monkeypatch, factor, made_again
):
    uploads = []
    upload = blending_network.upload

    def count(picture):
        uploads.append(picture)
        return upload(picture)

    monkeypatch.setattr(blending_network, "upload", count)
    frames = clip(6)
    made(frames, blending_network, factor)
    # A second pass reads the frames made by the first, and those of the source again.
    assert sum(isinstance(picture, np.ndarray) for picture in uploads) == 6
    assert len(uploads) == 6 + made_again


def test_made_frames_come_as_the_planes_that_the_output_stores(blending_network, clip):
    frames, tags = clip(4, 10, 14), Colour(1, 1)
    how = conversion("yuv420p", tags, 10)
    options = Options(4, cut="ignore")
    plain = stream.interpolate(timed(frames), blending_network, options)
    planar = stream.fetched(
        stream.interpolate(timed(frames), blending_network, options, conversion=how), how
    )
    for number, (one, other) in enumerate(zip(plain, planar, strict=True)):
        if number % 4 == 0:
            assert np.array_equal(one.pixels, other.picture)
            continue
        expected = from_rgb(one.pixels, "yuv420p", tags)
        stored = from_samples(other.picture.samples, (10, 14), "yuv420p", tags)
        assert np.array_equal(expected.to_ndarray(), stored.to_ndarray())


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("random_network", Options(8, batch=3)),
        # Each group size is compiled, which takes long for a network of many layers.
        ("blending_network", Options(16, batch=2)),
        ("blending_network", Options(fps=Fraction(60), exact_times=True, batch=2)),
    ],
    ids=["one pass", "two passes", "other times"],
)
@pytest.mark.parametrize("share", [0.3, 0.75])
def test_a_resumed_run_computes_the_same_frames_in_the_same_groups(kind, options, share, request):
    """Equality bit for bit needs equal groups: other batch sizes may round differently."""
    network = request.getfixturevalue(kind)
    frames = [drawing(n, seed=n // 6) for n in range(12)]
    asked = []

    class Counting:
        config, boundary, factor = network.config, network.boundary, network.factor
        passes, upload = network.passes, network.upload
        ahead = 1

        def between(self, window, factor, batch=1):
            asked.append(len(window))
            return network.between(window, factor, batch)

    def run(done):
        asked.clear()
        summary = Summary()
        made = stream.interpolate(timed(frames), Counting(), options, summary=summary, done=done)
        return [(frame.pixels, frame.pts) for frame in made], str(summary), len(asked)

    whole, counts, computed = run(0)
    done = int(share * len(whole))
    rest, same_counts, fewer = run(done)
    for (one, pts), (other, other_pts) in list(zip(whole, rest, strict=True))[done:]:
        np.testing.assert_array_equal(one, other)
        assert pts == other_pts
    assert counts == same_counts
    assert fewer <= computed * (1.25 - share)
