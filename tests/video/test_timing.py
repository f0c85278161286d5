# SPDX-License-Identifier: Apache-2.0
"""When output frames are shown, and that a long clip needs no more memory than a short one."""

from __future__ import annotations

import itertools
import weakref
from collections import deque
from fractions import Fraction

import numpy as np
import pytest

from flavr_jax.video import timing
from flavr_jax.video.frames import ClipInfo, TimedFrame

FILM = Fraction(1001, 24000)  # seconds a frame at 23.976 frames/s
VARIABLE = [Fraction(n, 24000) for n in (0, 1000, 1001, 4000, 4500, 9000)]


def timed(times, last_duration=FILM):
    return [(pts, last_duration) for pts in times]


def blend(factor):
    """A stand-in for the network: mixes neighbours, and reads two frames ahead as it would."""

    def interpolate(frames):
        window = []
        for frame in itertools.chain(frames, [None, None]):
            window.append(frame)
            if len(window) == 3:
                left, right = window[0], window[1]
                yield left
                for part in range(1, factor if right is not None else 1):
                    yield (left + (right.astype(float) - left) * part / factor).astype(np.uint8)
                window.pop(0)

    return interpolate


def clip(count, step=FILM):
    for index in range(count):
        yield TimedFrame(np.full((4, 6, 3), index % 256, np.uint8), index * step, step)


@pytest.mark.parametrize("factor", [1, 2, 8, 16])
@pytest.mark.parametrize("frames", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("slow_motion", [False, True])
def test_every_interval_and_the_last_frame_are_there(frames, factor, slow_motion):
    times = timed(index * FILM for index in range(frames))
    output = list(timing.output_times(times, factor, slow_motion=slow_motion))
    assert len(output) == (frames - 1) * factor + 1
    assert timing.output_count(frames, factor) == len(output)


def test_no_frames_give_no_frames():
    assert list(timing.output_times([], 8)) == []
    assert timing.output_count(0, 8) == 0


def test_originals_keep_their_times_at_a_variable_frame_rate():
    output = list(timing.output_times(timed(VARIABLE), 8))
    assert [pts for pts, _ in output][::8] == VARIABLE


def test_each_interval_of_a_variable_frame_rate_is_split_evenly():
    output = list(timing.output_times(timed(VARIABLE), 8))
    for index, (before, after) in enumerate(itertools.pairwise(VARIABLE)):
        part = (after - before) / 8
        for number in range(8):
            assert output[index * 8 + number] == (before + number * part, part)


def test_the_clip_keeps_its_start_and_duration():
    times = [Fraction(1, 3) + pts for pts in VARIABLE]
    output = list(timing.output_times(timed(times, Fraction(1, 7)), 4))
    assert output[0][0] == Fraction(1, 3)
    assert sum(output[-1]) == times[-1] + Fraction(1, 7)


def test_slow_motion_keeps_the_rate_and_stretches_time():
    times = [Fraction(1, 3) + index * FILM for index in range(4)]
    output = list(timing.output_times(timed(times), 8, slow_motion=True))
    assert output == [(Fraction(1, 3) + index * FILM, FILM) for index in range(25)]


def test_slow_motion_stretches_each_interval_of_a_variable_frame_rate():
    output = list(timing.output_times(timed(VARIABLE), 8, slow_motion=True))
    assert [pts for pts, _ in output][::8] == [8 * pts for pts in VARIABLE]


def test_two_hours_of_film_do_not_drift():
    frames = 2 * 60 * 60 * 24
    times = ((index * FILM, FILM) for index in range(frames))
    (last,) = deque(timing.output_times(times, 2), maxlen=1)
    assert last == ((frames - 1) * FILM, FILM)


def test_facts_of_the_output():
    info = ClipInfo(64, 48, Fraction(24000, 1001), Fraction(1, 24000), frame_count=25)
    smooth = timing.output_info(info, 8)
    assert (smooth.rate, smooth.frame_count) == (Fraction(192000, 1001), 193)
    assert smooth.time_base == Fraction(1, 192000)
    slow = timing.output_info(info, 8, slow_motion=True)
    assert (slow.rate, slow.frame_count) == (Fraction(24000, 1001), 193)
    assert slow.time_base == Fraction(1, 24000)


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 5])
def test_originals_pass_unchanged_at_their_times(frames):
    output = list(timing.retime(clip(frames), blend(8), 8))
    assert len(output) == (frames - 1) * 8 + 1
    for original, kept in zip(clip(frames), output[::8], strict=True):
        assert kept.pts == original.pts
        np.testing.assert_array_equal(kept.pixels, original.pixels)


def test_frames_that_are_lost_on_the_way_are_not_hidden():
    with pytest.raises(ValueError, match="longer"):
        list(timing.retime(clip(5), lambda frames: iter(list(frames)), 2))


def test_memory_does_not_grow_with_the_clip():
    alive = weakref.WeakSet()

    class Pixels(np.ndarray):
        """An array that can be watched."""

    def watched(count):
        for frame in clip(count):
            pixels = frame.pixels.view(Pixels)
            alive.add(pixels)
            yield TimedFrame(pixels, frame.pts, frame.duration)

    Pixels.__hash__ = object.__hash__
    most = 0
    for _ in timing.retime(watched(200), blend(2), 2):
        most = max(most, len(alive))
    assert most <= 6


def test_a_broken_source_breaks_the_output():
    def broken():
        yield from clip(3)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(timing.retime(broken(), blend(2), 2))


@pytest.mark.parametrize(
    ("text", "rate"),
    [("24", Fraction(24)), ("23.976", Fraction(2997, 125)), ("24000/1001", 1 / FILM)],
)
def test_a_rate_is_read_exactly_as_written(text, rate):
    assert timing.parse_rate(text) == rate


@pytest.mark.parametrize("text", ["0", "-5", "1/0", "fast", ""])
def test_a_rate_that_is_none_is_an_error(text):
    with pytest.raises(ValueError, match="frame rate"):
        timing.parse_rate(text)
