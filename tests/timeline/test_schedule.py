# SPDX-License-Identifier: Apache-2.0
"""When output frames are shown and what they show; times alone, without pictures."""

from __future__ import annotations

import itertools
from collections import deque
from fractions import Fraction

import numpy as np
import pytest

from flavr_jax.timeline import schedule
from flavr_jax.timeline.clock import Clock, OutputTiming, output_info
from flavr_jax.timeline.keys import Key
from flavr_jax.timeline.schedule import Grid
from flavr_jax.video.frames import ClipInfo, TimedFrame

FILM = Fraction(1001, 24000)  # seconds a frame at 23.976 frames/s
VARIABLE = [Fraction(n, 24000) for n in (0, 1000, 1001, 4000, 4500, 9000)]
EIGHTHS = Grid((8, 8, 8, 8))
PIXELS = np.zeros((1, 1, 3), np.uint8)


def key(pts, link="motion", duration=FILM, repeats=()):
    shown = ((pts, duration), *((time, duration) for time in repeats))
    return Key(TimedFrame(PIXELS, pts, duration), link, pts, shown)


def clip(times, duration=FILM, cuts=()):
    for index, pts in enumerate(times):
        yield key(pts, "cut" if index in cuts or index == 0 else "motion", duration)


def film(count, start=Fraction(0), step=FILM):
    return clip((start + index * step for index in range(count)), step)


def planned(keys, wanted, grid=EIGHTHS, cut="hold"):
    """(moment shown, pts, duration, error) of all output frames, as the stream would have them."""
    clock, keys = Clock(wanted), list(keys)
    plan = schedule.schedule(keys, clock, grid, cut=cut)
    ends = [*(one.time for one in keys[1:]), keys[-1].time]
    places = {}

    def requests():
        for (one, wishes), end in zip(plan, ends, strict=True):
            for wish in itertools.chain.from_iterable(wish.each() for wish in wishes):
                assert 0 <= wish.position < 1
                places[wish.pts] = (one.time + wish.position * (end - one.time), wish.error)
                yield wish

    return [
        (places[wish.pts][0], wish.pts, wish.duration, places[wish.pts][1])
        for wish in schedule.ending_at(clock, requests())
    ]


@pytest.mark.parametrize("factor", [1, 2, 8, 16])
@pytest.mark.parametrize("frames", [1, 2, 3, 5])
@pytest.mark.parametrize("slow_motion", [False, True])
@pytest.mark.parametrize("cuts", [(), (1,), (1, 2, 3, 4), (4,)])
def test_every_interval_and_the_last_frame_are_there(frames, factor, slow_motion, cuts):
    keys = clip([index * FILM for index in range(frames)], cuts=cuts)
    output = planned(keys, OutputTiming(factor, slow_motion=slow_motion))
    step = FILM if slow_motion else FILM / factor
    assert [pts for _, pts, _, _ in output] == [n * step for n in range((frames - 1) * factor + 1)]


def test_no_frames_give_no_frames():
    assert list(schedule.schedule([], Clock(OutputTiming()), EIGHTHS)) == []
    assert list(schedule.ending_at(Clock(OutputTiming()), iter([]))) == []


def test_each_interval_of_a_variable_frame_rate_is_split_evenly():
    output = planned(clip(VARIABLE), OutputTiming(8))
    for index, (before, after) in enumerate(itertools.pairwise(VARIABLE)):
        part = (after - before) / 8
        for number in range(8):
            time = before + number * part
            assert output[index * 8 + number] == (time, time, part, 0)


def test_the_clip_keeps_its_start_and_duration():
    times = [Fraction(1, 3) + pts for pts in VARIABLE]
    for wanted in (OutputTiming(4), OutputTiming(fps=Fraction(60)), OutputTiming(fps=Fraction(7))):
        output = planned(clip(times, Fraction(1, 7)), wanted)
        assert output[0][1] == Fraction(1, 3)
        assert output[-1][1] + output[-1][2] == times[-1] + Fraction(1, 7)


def test_a_clip_may_begin_before_zero():
    output = planned(film(4, start=-FILM * 5 / 2), OutputTiming(2))
    assert [pts for _, pts, _, _ in output] == [FILM * (n - 5) / 2 for n in range(7)]


def test_slow_motion_keeps_the_rate_and_stretches_time():
    times = [Fraction(1, 3) + index * FILM for index in range(4)]
    output = planned(clip(times), OutputTiming(8, slow_motion=True))
    assert [one[1] for one in output] == [Fraction(8, 3) + n * FILM for n in range(25)]
    # Sound is stretched to the end of the last frame, and so is that frame.
    assert [one[2] for one in output] == [FILM] * 24 + [8 * FILM]
    assert [one[0] for one in output] == [Fraction(1, 3) + n * FILM / 8 for n in range(25)]


def test_slow_motion_stretches_each_interval_of_a_variable_frame_rate():
    output = planned(clip(VARIABLE), OutputTiming(8, slow_motion=True))
    assert [pts for _, pts, _, _ in output][::8] == [8 * pts for pts in VARIABLE]


@pytest.mark.parametrize(
    ("fps", "source", "count"),
    [
        (Fraction(60), Fraction(24), 60),
        (Fraction(60000, 1001), Fraction(24000, 1001), 60),
        (Fraction(60), Fraction(24000, 1001), 60),  # 1.001 s are 60.06 frames
        (Fraction(24), Fraction(60), 10),
        (Fraction(25), Fraction(24), 25),
        (Fraction(10), Fraction(24), 10),
    ],
)
def test_a_constant_rate_has_evenly_spaced_frames_and_the_clips_duration(fps, source, count):
    keys = film(24, step=1 / source)
    output = planned(keys, OutputTiming(fps=fps))
    assert [pts for _, pts, _, _ in output] == [n / fps for n in range(count)]
    assert all(duration == 1 / fps for _, _, duration, _ in output[:-1])
    assert output[-1][1] + output[-1][2] == 24 / source


def test_24_to_60_shows_the_nearest_eighths_and_says_how_far_they_are_off():
    frame = Fraction(1, 24)
    output = planned(film(9, step=frame), OutputTiming(fps=Fraction(60)))
    # 0, 2/5, 4/5, 6/5 and 8/5 frames; the nearest eighths, worked out by hand.
    eighths = [0, 3, 6, 10, 13, 16, 19, 22, 26, 29, 32]
    assert [time / frame * 8 for time, *_ in output[:11]] == eighths
    errors = [abs(Fraction(n, 8) - Fraction(2 * i, 5)) * frame for i, n in enumerate(eighths)]
    assert [error for *_, error in output[:11]] == errors


def test_exact_times_go_down_to_finer_grids_until_they_are_close_enough():
    frame, bound = Fraction(1, 24), Fraction(1, 2000)
    output = planned(film(9, step=frame), OutputTiming(fps=Fraction(60)), Grid((8,) * 4, bound))
    moving = [one for one in output if one[1] <= 8 * frame]
    assert max(abs(time - pts) for time, pts, _, _ in moving) <= bound
    # 2/5 of a frame is 1.04 ms from 3/8 and 0.26 ms from 26/64.
    assert moving[1][0] / frame == Fraction(26, 64)
    coarse = planned(
        film(9, step=frame), OutputTiming(fps=Fraction(60)), Grid((8,) * 4, Fraction(1))
    )
    assert coarse[1][0] / frame == Fraction(3, 8)


def test_no_made_frame_is_shown_twice_at_a_high_rate():
    output = planned(
        film(4), OutputTiming(fps=12 / FILM)
    )  # 12 frames an interval, of 8 in one pass
    times = [time for time, *_ in output if time < 3 * FILM]
    assert len(times) == len(set(times)) == 36


def test_a_constant_rate_from_a_variable_one_shows_the_right_moments():
    output = planned(
        clip(VARIABLE), OutputTiming(fps=Fraction(60)), Grid((8,) * 4, Fraction(1, 10**4))
    )
    for time, pts, _, _ in output:
        assert abs(time - min(pts, VARIABLE[-1])) <= Fraction(1, 10**4)


def test_slow_motion_at_a_constant_rate_samples_the_stretched_time():
    wanted = OutputTiming(5, Fraction(60), slow_motion=True)
    output = planned(film(13, step=Fraction(1, 24)), wanted, Grid((8,) * 4, Fraction(1, 1000)))
    assert [pts for _, pts, _, _ in output] == [Fraction(n, 60) for n in range(len(output))]
    assert output[-1][1] + output[-1][2] == Fraction(13 * 5, 24)
    for time, pts, _, error in output:
        assert abs(time * 5 - min(pts, Fraction(60, 24))) == error <= Fraction(1, 1000)


@pytest.mark.parametrize(
    "wanted",
    [
        OutputTiming(2, slow_motion=True),
        OutputTiming(fps=Fraction(3000, 1001)),
        OutputTiming(fps=Fraction(3, 4)),
    ],
    ids=str,
)
def test_two_hours_do_not_drift(wanted):
    step = 20 * FILM  # a twentieth of the frames of film, to be quick
    frames = int(7200 / step)
    clock, start = Clock(wanted), Fraction(1, 3)
    plan = schedule.schedule(film(frames, start, step), clock, EIGHTHS)
    wishes = (one for _, wishes in plan for wish in wishes for one in wish.each())
    (last,) = deque(schedule.ending_at(clock, wishes), maxlen=1)
    end = (start + frames * step) * wanted.stretch
    assert last.pts + last.duration == end
    if wanted.fps is not None:
        assert (last.pts - start) * wanted.fps == round((end - start) * wanted.fps) - 1


def test_a_cut_shows_the_nearer_frame():
    output = planned(clip([0 * FILM, FILM, 2 * FILM], cuts=(1,)), OutputTiming(4))
    assert [time / FILM for time, *_ in output] == [
        0, 0, 0, 1, 1, Fraction(5, 4), Fraction(3, 2), Fraction(7, 4), 2,
    ]  # fmt: skip


def test_a_cut_may_be_mixed_at_the_exact_times():
    frame = Fraction(1, 24)
    keys = clip([0 * frame, frame, 2 * frame], frame, cuts=(1,))
    output = planned(keys, OutputTiming(fps=Fraction(60)), cut="blend")
    assert [time for time, *_ in output][:3] == [Fraction(n, 60) for n in range(3)]


def test_motion_takes_the_interval_that_repeats_leave():
    # Drawn on twos: frames 0, 2, 4 are drawings and 1, 3 repeat them.
    keys = [key(n * FILM, repeats=[(n + 1) * FILM]) for n in (0, 2)] + [key(4 * FILM)]
    output = planned(keys, OutputTiming(2))
    assert [time / FILM for time, *_ in output] == [Fraction(n, 2) for n in range(9)]
    assert [pts / FILM for _, pts, *_ in output] == [Fraction(n, 2) for n in range(9)]


def test_a_rest_stands_still_and_counts_no_error():
    keys = [key(0 * FILM, "cut"), key(FILM, "still"), key(2 * FILM)]
    output = planned(keys, OutputTiming(fps=1 / FILM * 5), Grid((8,)))
    assert [time / FILM for time, *_ in output][:6] == [0, 0, 0, 0, 0, 1]
    assert all(error == 0 for *_, error in output[:6])


def test_until_a_key_is_due_it_is_shown():
    late = Key(TimedFrame(PIXELS, Fraction(0), FILM), "cut", FILM / 2, ((Fraction(0), FILM),))
    output = planned([late, key(FILM)], OutputTiming(4))
    assert [time / FILM for time, *_ in output] == [
        Fraction(1, 2), Fraction(1, 2), Fraction(1, 2), Fraction(3, 4), 1,
    ]  # fmt: skip


def test_a_sliver_at_the_end_goes_to_the_frame_before():
    # 10 frames of 100 ms and 4 ms more, as a file with rounded times may have them.
    clock = Clock(OutputTiming(fps=Fraction(10)))
    keys = clip([Fraction(n, 10) for n in range(10)], Fraction(104, 1000))
    plan = schedule.schedule(keys, clock, EIGHTHS)
    wishes = [one for _, wishes in plan for wish in wishes for one in wish.each()]
    ended = list(schedule.ending_at(clock, wishes))
    assert len(ended) == 10
    assert (ended[-1].pts, ended[-1].duration) == (Fraction(9, 10), Fraction(104, 1000))


def test_facts_of_the_output():
    info = ClipInfo(64, 48, Fraction(24000, 1001), Fraction(1, 24000), frame_count=25)
    smooth = output_info(info, OutputTiming(8))
    assert (smooth.rate, smooth.frame_count) == (Fraction(192000, 1001), 193)
    assert smooth.time_base == Fraction(1, 192000)
    slow = output_info(info, OutputTiming(8, slow_motion=True))
    assert (slow.rate, slow.frame_count) == (Fraction(24000, 1001), 193)
    assert slow.time_base == Fraction(1, 24000)


@pytest.mark.parametrize("fps", [Fraction(60), Fraction(60000, 1001), Fraction(2997, 125)])
def test_ticks_of_a_constant_rate_hold_its_times_and_the_inputs(fps):
    info = ClipInfo(64, 48, Fraction(24), Fraction(1, 90000), frame_count=48)
    made = output_info(info, OutputTiming(fps=fps))
    assert made.rate == fps
    assert made.frame_count == round(2 * fps)
    for time in (1 / fps, Fraction(1, 90000)):
        assert (time / made.time_base).denominator == 1


def test_moments_of_a_constant_rate_are_made_lazily():
    clock = Clock(OutputTiming(fps=Fraction(1_000_000)))
    clock.advance(Fraction(0), FILM)
    century = clock.advance(Fraction(3_155_760_000), FILM)  # 3e15 moments
    assert next(century).pts == 0
    assert next(century).pts == Fraction(1, 1_000_000)
    assert next(clock.finish()).pts == 3_155_760_000


@pytest.mark.parametrize("link", ["motion", "still", "cut"])
@pytest.mark.parametrize("cut", ["hold", "blend"])
def test_requests_of_a_long_interval_are_few_and_ask_for_every_frame(link, cut):
    # 10 minutes between two frames, as in a recording of a screen, at 60 frames a second
    keys = [key(Fraction(0), "cut"), key(Fraction(600), link), key(Fraction(601))]
    clock = Clock(OutputTiming(fps=Fraction(60)))
    (_, wishes), *_ = schedule.schedule(keys, clock, EIGHTHS, cut=cut)
    assert len(wishes) <= 4097
    times = [one.pts for wish in wishes for one in wish.each()]
    assert times == [Fraction(n, 60) for n in range(len(times))]
    assert len(times) >= 600 * 60 // 2
    for wish in wishes:
        if link == "motion":
            assert abs(wish.position * 600 - wish.pts) <= Fraction(600, 4096)
            assert wish.error <= Fraction(600, 2 * 4096)


@pytest.mark.parametrize("fps", [Fraction(10**9), Fraction(1, 10**6), Fraction(10) ** 400])
def test_absurd_rates_are_refused_with_the_limits(fps):
    with pytest.raises(ValueError, match=r"`fps` is .* it goes from 1/86400 to 1000000. Use a"):
        OutputTiming(fps=fps)


def test_an_absurd_factor_is_refused():
    with pytest.raises(ValueError, match="`factor` is 1099511627776; it goes from 1 to 4096"):
        OutputTiming(2**40)


def test_an_absurd_stated_rate_is_refused():
    info = ClipInfo(64, 48, Fraction(2**31 - 1), Fraction(1, 2**31 - 1), frame_count=3)
    with pytest.raises(ValueError, match=r"output's rate is 4\.29497e\+09 frames/s; it goes from"):
        output_info(info, OutputTiming(2))
    assert output_info(info, OutputTiming(fps=Fraction(60))).rate == 60


@pytest.mark.parametrize("mistake", [{"factor": 0}, {"factor": -8}, {"fps": Fraction(0)}])
def test_impossible_timings_are_refused(mistake):
    with pytest.raises(ValueError, match=next(iter(mistake))):
        OutputTiming(**mistake)
