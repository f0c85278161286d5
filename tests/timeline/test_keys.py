# SPDX-License-Identifier: Apache-2.0
"""Which frames are keys, how they follow on each other, and when they are due."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest

from flavr_jax.timeline.keys import find_keys
from flavr_jax.timeline.repeats import even_time
from flavr_jax.video.frames import TimedFrame

STEP = Fraction(1, 24)


def frames(text, step=STEP):
    """A frame a letter: equal letters are equal pictures, upper case is another scene."""
    for index, letter in enumerate(text):
        scene = np.random.default_rng(letter.isupper()).integers(0, 256, (6, 60, 3), np.uint8)
        shift = ord(letter.lower()) - ord("a")
        pixels = scene.repeat(8, 0).repeat(8, 1)[:, 2 * shift : 2 * shift + 80]
        yield TimedFrame(pixels, index * step, step)


def keys(text, *, repeats=True):
    """(frame number, link, frames that it stands for) of a clip's keys."""
    found = find_keys(frames(text), cuts=True, repeats=repeats)
    return [(key.frame.pts / STEP, key.link, len(key.shown)) for key in found]


def test_without_repeats_every_frame_is_a_key():
    assert keys("abbCC", repeats=False) == [
        (0, "cut", 1), (1, "motion", 1), (2, "motion", 1), (3, "cut", 1), (4, "motion", 1),
    ]  # fmt: skip


def test_equal_frames_are_one_key():
    assert keys("aabbccd") == [(0, "cut", 2), (2, "motion", 2), (4, "motion", 2), (6, "motion", 1)]


def test_the_last_frame_of_a_shot_is_a_key():
    assert keys("aabbCCDD") == [
        (0, "cut", 2), (2, "motion", 1), (3, "still", 1),
        (4, "cut", 2), (6, "motion", 1), (7, "still", 1),
    ]  # fmt: skip


@pytest.mark.parametrize("rest", [6, 7, 11, 12, 30])
def test_a_rest_stays_a_rest(rest):
    found = keys("ab" + "c" * rest + "de")
    assert found[:3] == [(0, "cut", 1), (1, "motion", 1), (2, "motion", 1)]
    assert found[3:-2] == [(n, "still", 1) for n in range(3, rest + 2)]
    assert found[-2:] == [(rest + 2, "motion", 1), (rest + 3, "motion", 1)]


def test_a_still_clip_is_all_rest():
    assert keys("a" * 9) == [(0, "cut", 1), *((n, "still", 1) for n in range(1, 9))]


@pytest.mark.parametrize("text", ["a", "aa", "ab", "aB", "aaB", "aBB", "aBc", ""])
def test_every_frame_is_shown_by_one_key(text):
    found = list(find_keys(frames(text), cuts=True, repeats=True))
    shown = [pts for key in found for pts, _ in key.shown]
    assert shown == [n * STEP for n in range(len(text))]


@pytest.mark.parametrize(
    ("lengths", "pictures"),
    [
        ((1, 1, 1, 2), 24),  # film in 30 frames a second
        ((2, 1, 1, 1), 24),
        ((1, 1, 2, 1), 24),
        ((2, 3), 12),  # in 60: half of them pictures, counted in 30ths
        ((3, 2), 12),
        ((1, 1, 1, 1, 2), 25),
        ((1, 2, 1, 2, 2), Fraction(75, 4)),  # 15 in 24
    ],
)
def test_keys_of_a_cadence_are_due_at_even_times(lengths, pictures):
    frame = Fraction(1, 30)
    starts = [sum((lengths * 30)[:n]) * frame for n in range(30)]
    due = [even_time(starts, index) for index in range(len(starts))]
    step = frame * sum(lengths) / len(lengths)
    assert step == 1 / Fraction(pictures)
    assert all(after - before == step for before, after in itertools.pairwise(due))
    assert all(0 <= time - start < frame for time, start in zip(due, starts))


@pytest.mark.parametrize("lengths", [(1,), (2,), (2, 3, 3, 2, 2, 2, 3, 2, 3, 3, 3)])
def test_keys_without_a_cadence_are_due_when_they_are_first_shown(lengths):
    starts = [Fraction(sum((lengths * 20)[:n]), 24) for n in range(11)]
    assert [even_time(starts, n) for n in range(11)] == starts


def test_a_cadence_is_seen_through_rounded_times():
    # Matroska's milliseconds; the pictures are 1/24 s apart.
    starts = [Fraction(round(1000 * (n * 5 // 4) / 30), 1000) for n in range(30)]
    due = [even_time(starts, index) for index in range(len(starts))]
    for before, after in itertools.pairwise(due):
        assert abs(after - before - Fraction(1, 24)) <= Fraction(1, 1000)


def test_keys_are_due_in_order_and_never_before_they_are_shown():
    random = np.random.default_rng(0)
    text = "".join(letter * random.integers(1, 5) for letter in "abcdefghijklmnopqrstuvwxy")
    found = list(find_keys(frames(text), cuts=False, repeats=True))
    assert all(key.time >= key.frame.pts for key in found)
    assert all(after.time > before.time for before, after in itertools.pairwise(found))
