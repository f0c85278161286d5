# SPDX-License-Identifier: Apache-2.0
"""Passes through a network that reads the time off each frame, so that every output is known."""

from __future__ import annotations

import itertools
from fractions import Fraction

import jax.numpy as jnp
import numpy as np
import pytest

from flavr_jax.config import ModelConfig
from flavr_jax.inference.computation import Computation
from flavr_jax.inference.passes import Node, fill
from flavr_jax.timeline.schedule import Request
from flavr_jax.video.frames import TimedFrame
from flavr_jax.video.pixels.picture import resident

pytestmark = pytest.mark.usefixtures("definition")

UNIT = 4096  # of brightness, an interval of the clip


class ClockNetwork:
    """Frames are as bright as it is late; a window that is not evenly spaced is an error."""

    def __init__(self, factor=8, n_inputs=4):
        self.config = ModelConfig(width=1, n_inputs=n_inputs, n_outputs=factor - 1)
        self.boundary = "mirror"
        self.ahead = 1
        self.factor = factor
        self.batches, self.planned = [], []

    def passes(self, factor):
        raise NotImplementedError

    def upload(self, picture):
        return resident(picture)

    def between(self, frames, factor, batch=1):
        n_inputs = self.config.n_inputs
        times = np.array([int(frame.pixels[0, 0, 0]) for frame in frames])
        made = []
        for start in range(len(times) - n_inputs + 1):
            window = times[start : start + n_inputs]
            steps = np.abs(np.diff(window))  # a mirrored end runs backwards
            assert steps.min() == steps.max() > 0, window
            first, second = window[(n_inputs - 2) // 2 :][:2]
            made.append([first + (second - first) * k // factor for k in range(1, factor)])
        self.batches.append(len(made))
        self.planned.append(batch)
        pixels = jnp.array(made, np.uint16)[..., None, None, None]
        return Computation(pixels, jnp.ones(len(made), bool), "fp32")


def node(index, wanted=(), ends_shot=False, unit=UNIT):
    pixels = np.full((1, 1, 1), index * unit, np.uint16)
    wishes = [Request(Fraction(p), index + Fraction(p), Fraction(1)) for p in wanted]
    return Node(TimedFrame(pixels, Fraction(index), Fraction(1)), wishes, ends_shot)


def shown(nodes, unit=UNIT):
    """(time asked for, time shown) of what nodes give out, in intervals of the clip."""
    return [
        (wish.pts, Fraction(int(one.frame.pixels[0, 0, 0]), unit))
        for one in nodes
        for wish in one.wanted
        if wish.position == 0
    ]


def test_wanted_frames_are_made_and_others_are_not_given_out():
    network = ClockNetwork()
    nodes = [node(0, [0, Fraction(3, 8)]), node(1), node(2, [Fraction(7, 8)]), node(3, [0])]
    given = shown(fill(nodes, network, 8))
    assert given == [(time, time) for time in (0, Fraction(3, 8), Fraction(23, 8), 3)]
    assert network.batches == [1, 1]


@pytest.mark.parametrize("batch", [1, 2, 3, 5])
def test_intervals_are_computed_in_batches_that_end_where_one_is_not_needed(batch):
    network = ClockNetwork()
    wanted = [1, 1, 1, 0, 1, 1, 1, 1, 0, 0]
    nodes = [node(n, [0, Fraction(1, 2)] if one else [0]) for n, one in enumerate(wanted)]
    given = shown(fill(nodes, network, 8, batch=batch))
    assert [time for time, _ in given] == [time for _, time in given]
    assert len(given) == len(wanted) + 7
    runs = [3, 4]
    assert network.batches == [
        min(batch, run - start) for run in runs for start in range(0, run, batch)
    ]


def test_only_the_last_intervals_of_a_shot_share_the_program_of_a_whole_batch():
    network = ClockNetwork()
    # Two shots of 5 intervals; in the second one, the third is not needed.
    nodes = [
        node(n, [0] if n == 8 else [0, Fraction(1, 2)][: 1 + (n not in (5, 11))], n in (5, 11))
        for n in range(12)
    ]
    given = shown(fill(nodes, network, 8, batch=3))
    assert len(given) == 12 + 9
    assert network.batches == [3, 2, 2, 2]
    assert network.planned == [1, 3, 1, 3]


@pytest.mark.parametrize("cuts", [{0}, {4}, {0, 1, 2, 3, 4, 5}, {1, 2}, {3}])
def test_no_window_straddles_a_cut(cuts):
    nodes, network = [], ClockNetwork()
    for n in range(6):
        last = n in cuts or n == 5
        # Shots are far apart, so that a window with frames of two of them is not evenly spaced.
        shift = 10 * sum(cut < n for cut in cuts)
        pixels = np.full((1, 1, 1), n * 64 + shift * 1000, np.uint16)
        wishes = [Request(Fraction(p), n + Fraction(p), Fraction(1)) for p in (0, *[0.5][last:])]
        nodes.append(Node(TimedFrame(pixels, Fraction(n), Fraction(1)), wishes, last))
    assert len(list(fill(nodes, network, 8))) == 6 + 7 * network.batches.count(1)
    assert sum(network.batches) == 5 - len(cuts - {5})


@pytest.mark.parametrize(
    ("factor", "n_inputs", "passes"), [(8, 4, 3), (2, 4, 6), (2, 6, 6), (4, 6, 4), (3, 4, 3)]
)
@pytest.mark.parametrize("batch", [1, 3])
def test_finer_times_get_all_their_context_at_even_spacing(factor, n_inputs, passes, batch):
    # A single wish, at every time of the finest grid: what it needs has no other reason to be.
    grid, unit = factor**passes, 3**7 if factor == 3 else UNIT
    for part in {*range(1, grid, max(1, grid // 40)), 1, grid - 1}:
        network = ClockNetwork(factor, n_inputs)
        wanted = [Fraction(part, grid)]
        nodes = [node(n, wanted if n == 3 else [], unit=unit) for n in range(8)]
        for level in range(passes):
            nodes = fill(nodes, network, factor, batch=batch, last=level == passes - 1)
        assert shown(nodes, unit) == [(3 + wanted[0], 3 + wanted[0])]


def test_times_that_one_pass_makes_cost_no_more_when_finer_passes_follow():
    network = ClockNetwork()
    nodes = iter([node(n, [0, Fraction(1, 4)] if n == 3 else [0]) for n in range(8)])
    for last in (False, False, True):
        nodes = fill(nodes, network, 8, last=last)
    assert len(shown(nodes)) == 9
    assert network.batches == [1]


def test_as_many_batches_are_started_ahead_as_the_network_says():
    network = ClockNetwork()
    network.ahead = 3
    nodes = fill((node(n, [0, Fraction(1, 2)]) for n in itertools.count()), network, 8, batch=2)
    for number in range(3):
        first = next(nodes)
        assert len(network.batches) == 4 + number
        assert first.frame.pixels[0, 0, 0] == number * 2 * UNIT
        for _ in range(15):
            next(nodes)


def test_while_a_batch_computes_the_one_before_is_handed_out():
    network = ClockNetwork()
    nodes = fill((node(n, [0, Fraction(1, 2)]) for n in itertools.count()), network, 8, batch=2)
    for _ in range(3):
        before = len(network.batches)
        first = next(nodes)
        assert len(network.batches) == before + (2 if before == 0 else 1)
        assert first.frame.pixels[0, 0, 0] == (len(network.batches) - 2) * 2 * UNIT
        for _ in range(15):
            next(nodes)
