# SPDX-License-Identifier: Apache-2.0
"""Clips through a network that magnifies: which frames a window has, and what is kept."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flavr_jax import checkpoint
from flavr_jax.bundled import MAGNIFY_CHECKPOINT
from flavr_jax.config import ModelConfig
from flavr_jax.inference import magnify
from flavr_jax.inference.computation import NonFiniteError
from flavr_jax.models import magnifier
from flavr_jax.models.magnifier import MagnifierConfig
from flavr_jax.video.frames import TimedFrame

pytestmark = pytest.mark.usefixtures("definition")

CONFIG = MagnifierConfig(model=ModelConfig(width=1))


@pytest.fixture(scope="module")
def params():
    """A network without flow: its output is the mean of the window's frames."""
    params = magnifier.init(CONFIG, jax.random.key(0))
    return {**params, "out": jax.tree.map(jnp.zeros_like, params["out"])}


@pytest.fixture(scope="module")
def network(params, tmp_path_factory):
    path = tmp_path_factory.mktemp("magnifier") / "checkpoint"
    checkpoint.save(path, CONFIG, params)
    return magnify.load(path)


def clip(values, dtype=np.uint8, channels=3):
    """Frames of one value each; their size is no multiple of 8."""
    return [
        TimedFrame(np.full((9, 11, channels), value, dtype), Fraction(index, 10), Fraction(1, 10))
        for index, value in enumerate(values)
    ]


def test_windows_have_the_first_frame_and_three_neighbours(network):
    frames = list(magnify.magnified(clip([100, 0, 40, 80]), network, 3.0))
    # Of the first and the last frame, one neighbour is the frame itself.
    assert [int(frame.pixels[0, 0, 0]) for frame in frames] == [75, 60, 55, 75]
    assert [frame.pts for frame in frames] == [Fraction(index, 10) for index in range(4)]
    assert frames[0].pixels.shape == (9, 11, 3)


def test_the_frame_at_rest_can_be_the_previous_one(network):
    frames = list(magnify.magnified(clip([100, 0, 40, 80]), network, 3.0, "previous"))
    assert [int(frame.pixels[0, 0, 0]) for frame in frames] == [75, 60, 30, 60]


def test_a_single_frame_stays(network):
    (frame,) = magnify.magnified(clip([90]), network, 3.0)
    np.testing.assert_array_equal(frame.pixels, 90)


def test_16_bits_and_alpha_are_kept(network):
    frames = clip([40000, 20000], np.uint16, channels=4)
    frames[1].pixels[..., 3] = 123
    made = list(magnify.magnified(frames, network, 3.0))
    assert made[1].pixels.dtype == np.uint16
    np.testing.assert_array_equal(made[1].pixels[..., 3], 123)
    np.testing.assert_array_equal(made[1].pixels[..., :3], 30000)


def test_values_that_overflow_are_an_error(params):
    params = {**params, "out": {**params["out"], "bias": jnp.full(15, jnp.nan)}}
    with pytest.raises(NonFiniteError):
        list(magnify.magnified(clip([0, 1]), magnify.Network(CONFIG, params, {}), 3.0))


def drifted(shift, size=64):
    """Return a sum of waves, moved to the right by some pixels."""
    y, x = np.mgrid[:size, :size]
    waves = [
        np.sin(2 * np.pi * (across * (x - shift) + down * y) / size + phase)
        for across, down, phase in ((5, 2, 0.0), (-3, 6, 1.0), (7, -1, 0.5))
    ]
    return np.repeat((0.5 + 0.15 * sum(waves))[..., None], 3, axis=-1).astype(np.float32)


@pytest.mark.parametrize(("shift", "factor"), [(0.5, 5.0), (0.4, 5.0), (0.2, 10.0)])
def test_the_bundled_network_moves_a_picture_as_far_as_asked(shift, factor):
    frames = [drifted(0.0), *map(drifted, (shift - 0.1, shift, shift + 0.1))]
    found = magnify.load(MAGNIFY_CHECKPOINT)(jnp.stack(frames)[None], factor)[0]
    candidates = np.arange(0.0, 4.0, 0.125)
    errors = [np.abs(found - drifted(candidate)).mean() for candidate in candidates]
    assert candidates[np.argmin(errors)] == pytest.approx(shift * factor, abs=0.26)
