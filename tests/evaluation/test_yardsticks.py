# SPDX-License-Identifier: Apache-2.0
from fractions import Fraction

import numpy as np
import pytest

from flavr_jax.config import ModelConfig
from flavr_jax.data.sequences import ArrayClip, regular
from flavr_jax.evaluation import drawings, yardsticks
from flavr_jax.inference.interpolator import Interpolator


def averaging(frames, factor):
    """Interpolate by averaging; originals stay."""
    shares = [k / factor for k in range(factor)]
    pairs = zip(frames[:-1].astype(np.float32), frames[1:].astype(np.float32))
    made = [(1 - t) * a + t * b for a, b in pairs for t in shares]
    return np.rint(np.stack([*made, frames[-1]])).astype(np.uint8)


def moved(frames, factor):
    """Interpolate like :func:`averaging`, with every made frame shifted by one pixel."""
    made = averaging(frames, factor)
    shifted = np.roll(made, 1, axis=2)
    shifted[::factor] = made[::factor]
    return shifted


def test_a_static_display_survives_averaging_and_not_a_shift():
    assert yardsticks.display_deviation(averaging) == 0.0
    assert yardsticks.display_deviation(moved) > 100


def test_the_ground_of_the_display_zooms():
    frames, covered = drawings.game(3)
    assert (frames[0][covered] == frames[2][covered]).all()
    assert np.abs(frames[0].astype(int) - frames[2])[~covered].mean() > 3
    assert 0.01 < covered.mean() < 0.2


def test_a_still_picture_survives_averaging_and_not_a_shift():
    assert yardsticks.still_deviation(averaging) == 0.0
    assert yardsticks.still_deviation(moved) > 50


def test_averaged_drawings_pulse():
    assert yardsticks.pulsing(averaging) < 0.9
    same = np.stack([drawings.walker(0.0)] * 3)
    assert yardsticks.pulsing(averaging, same) == pytest.approx(1.0, abs=1e-3)


def test_edges_agree_within_a_pixel_and_doubled_ones_do_not():
    truth = drawings.walker(3.0)
    assert yardsticks.edge_agreement(truth, truth) == 1.0
    assert yardsticks.edge_agreement(np.roll(truth, 1, axis=1), truth) > 0.99
    ghost = averaging(np.stack([drawings.walker(2.0), drawings.walker(4.0)]), 2)[1]
    moves = (drawings.walker(2.0) != drawings.walker(4.0)).any(axis=-1)
    assert yardsticks.edge_agreement(ghost, truth, moves) < 0.9
    assert yardsticks.edge_agreement(np.full_like(truth, 9), truth) == 0.0


class Network(Interpolator):
    """A network of one output that repeats the second input."""

    def __init__(self):
        self.config, self.precision, self.seen = ModelConfig(), "fp32", []

    def predict(self, windows):
        self.seen.append(windows.shape)
        return windows[:, 1:2]


class Drawing:
    """Stands for the pipeline: it finds the in-between of two drawings, or ghosts them."""

    def __init__(self, *, ghosts):
        self.ghosts = ghosts

    def interpolate(self, timed, network, options):
        assert options.dedup
        assert options.fps == 24
        frames = [each.pixels for each in timed]
        for number, frame in enumerate(frames):
            if number % 2 and number + 1 < len(frames):
                pair = np.stack([frames[number - 1], frames[number + 1]])
                ghost = averaging(pair, 2)[1]
                frame = ghost if self.ghosts else drawings.walker(number / 2)
            yield yardsticks.TimedFrame(frame, Fraction(number, 24), Fraction(1, 24))


def test_a_walk_on_twos_is_judged_by_its_made_drawings(monkeypatch):
    scores = {}
    for ghosts in (False, True):
        monkeypatch.setattr(yardsticks.stream, "interpolate", Drawing(ghosts=ghosts).interpolate)
        monkeypatch.setattr(yardsticks.stream, "fetched", lambda frames: frames)
        scores[ghosts] = yardsticks.walk_agreement(Network(), count=6)
    assert scores[False] == 1.0
    assert scores[True] < 0.95


def test_half_size_is_the_mean_of_two_by_two_pixels():
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (9, 20, 24, 3), dtype=np.uint8)
    half = yardsticks._Half(ArrayClip("noise", frames))
    expected = np.rint(frames[4, 2:4, 6:8].astype(float).mean(axis=(0, 1)))
    np.testing.assert_array_equal(half.read(4)[1, 3], expected)
    network = Network()
    value = yardsticks.half_size(network, [regular(ArrayClip("noise", frames), 2)])
    assert network.seen == [(1, 4, 10, 12, 3)] * 2
    assert 5 < value < 20


@pytest.mark.parametrize(
    ("name", "good", "bad"), [("display", 2.0, 21.0), ("still", 2.0, 3.0), ("pulsing", 0.96, 0.8)]
)
def test_goals_are_limits_in_the_right_direction(name, good, bad):
    yardstick = yardsticks.DRAWN[name]
    assert yardstick.reached(good) is True
    assert yardstick.reached(bad) is False
    assert yardsticks.DRAWN["walk"].reached(0.5) is None


def outlined(top, left, size=(24, 32), side=8):
    """A white square on black."""
    frame = np.zeros((*size, 3), np.uint8)
    frame[top : top + side, left : left + side] = 255
    return frame


def test_agreement_is_symmetric_and_falls_with_the_distance():
    truth = outlined(8, 10)
    scores = [yardsticks.edge_agreement(outlined(8, 10 + shift), truth) for shift in (0, 1, 2, 5)]
    assert scores[0] == scores[1] == 1.0  # a pixel aside is agreement
    assert 1.0 > scores[2] > scores[3] > 0
    for shift in (2, 5):
        other = outlined(8, 10 + shift)
        assert yardsticks.edge_agreement(other, truth) == pytest.approx(
            yardsticks.edge_agreement(truth, other)
        )


def test_an_outline_too_many_or_too_few_costs_as_much():
    one, two = outlined(8, 2), np.maximum(outlined(8, 2), outlined(8, 20))
    # Two outlines for one: precision ½ and recall 1 make 2 · ½ / 1½; one for two, the other way.
    assert yardsticks.edge_agreement(two, one) == pytest.approx(2 / 3, abs=0.01)
    assert yardsticks.edge_agreement(one, two) == pytest.approx(2 / 3, abs=0.01)


def test_only_the_pixels_that_are_asked_about_count():
    truth = np.maximum(outlined(8, 2), outlined(8, 20))
    left = np.zeros((24, 32), bool)
    left[:, :14] = True
    assert yardsticks.edge_agreement(outlined(8, 2), truth, left) == 1.0
    assert yardsticks.edge_agreement(outlined(8, 20), truth, left) == 0.0


def test_two_flat_pictures_agree():
    flat = np.full((8, 8, 3), 40, np.uint8)
    assert yardsticks.edge_agreement(flat, flat + 100) == 1.0
    assert yardsticks.edge_agreement(flat, flat, np.zeros((8, 8), bool)) == 1.0
