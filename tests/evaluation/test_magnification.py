# SPDX-License-Identifier: Apache-2.0
"""Magnification without training, on a blob whose motion is known."""

import functools
import importlib.util

import numpy as np
import pytest

from flavr_jax.evaluation import magnification
from flavr_jax.evaluation.magnification import VIBRATION, compare, eulerian, phase_based

needs_pyrtools = pytest.mark.skipif(
    importlib.util.find_spec("pyrtools") is None, reason="no pyrtools"
)
PHASES = np.sin(2 * np.pi / 8 * np.arange(16))


def blob(displacements, size=(65, 96)):
    """A smooth blob in grey, displaced to the right, in each frame."""
    y, x = np.mgrid[: size[0], : size[1]]
    frames = [np.exp(-((x - 48 - d) ** 2 + (y - 32) ** 2) / 20) for d in displacements]
    return np.repeat(np.stack(frames)[..., None], 3, axis=-1).astype(np.float32)


def error(made, truth):
    return float(np.sqrt(np.mean((made - truth) ** 2)))


METHODS = [
    pytest.param(phase_based, marks=needs_pyrtools),
    functools.partial(eulerian, reach=0.5),
]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("band", [None, VIBRATION])
def test_the_motion_is_magnified(method, band):
    clip, truth = blob(0.2 * PHASES), blob(1.0 * PHASES)
    assert error(method(clip, 5.0, band), truth) < 0.4 * error(clip, truth)


@pytest.mark.parametrize("method", METHODS)
def test_motion_outside_of_the_band_is_left_alone(method):
    clip = blob(0.2 * PHASES)
    made = method(clip, 5.0, (0.3, 0.4))
    assert error(made, clip) < 0.05 * error(blob(1.0 * PHASES), clip)


@needs_pyrtools
def test_phases_carry_larger_motion_than_brightness():
    clip, truth = blob(0.4 * PHASES), blob(4.0 * PHASES)
    by_phase, by_brightness = (method(clip, 10.0, VIBRATION) for method in (phase_based, eulerian))
    assert error(by_phase, truth) < error(by_brightness, truth)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pyrtools.*magnify\]"):
        phase_based(blob([0.0, 0.1]), 2.0)


@pytest.mark.once
def test_methods_are_scored_against_the_exact_truth():
    def perfect(clip, factor, band):
        assert (factor, band) == (4.0, VIBRATION)
        return next(truths)

    found = list(magnification._test_clips(4.0, 0.01, 2, 32, 0))
    truths = iter([truth for _, truth in found])
    scores = compare({"perfect": perfect, "eulerian": eulerian}, 4.0, 0.01, clips=2, size=32)
    assert scores["perfect"] == np.inf
    # Noise of 1 % alone would leave 40 dB; the motion that is missing costs more.
    assert 10 < scores["unchanged"] < 38
    assert scores["eulerian"] != scores["unchanged"]
