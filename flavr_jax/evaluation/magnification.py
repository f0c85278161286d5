# SPDX-License-Identifier: Apache-2.0
"""Motion magnification without training, and a comparison of methods on synthetic clips.

Both classical methods filter a whole clip over time. Linear Eulerian magnification amplifies the
change of each pixel's brightness. Phase-based magnification amplifies the change of the local
phase, which is proportional to the displacement.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy import ndimage

from flavr_jax.data.synthetic import magnified
from flavr_jax.data.synthetic.magnified import MagnifiedConfig
from flavr_jax.extras import install_command
from flavr_jax.metrics.psnr import psnr_uint8

__all__ = ["BASELINES", "VIBRATION", "Band", "Method", "compare", "eulerian", "phase_based"]

Clip: TypeAlias = Float[np.ndarray, "time height width 3"]
Band: TypeAlias = tuple[float, float]
"""Lowest and highest frequency of the motion to magnify, in cycles per frame."""

Method: TypeAlias = Callable[[Clip, float, Band | None], Clip]
"""Magnifies the motion of a clip by a factor; without a band, all motion since the first frame."""

VIBRATION: Band = (0.09, 0.18)
"""Band of the vibration in :func:`compare`, whose period is 8 frames."""

_LENGTH, _PERIOD = 24, 8  # frames
_LEVELS = 4  # of the Laplacian pyramid
_SMOOTHING = 2.0  # standard deviation in pixels of the average over neighbouring phases


def eulerian(clip: Clip, factor: float, band: Band | None = None, reach: float = 4.0) -> Clip:
    """Magnify motion by amplifying the change of each band of a Laplacian pyramid.

    Wu et al. 2012, https://people.csail.mit.edu/mrubinstein/papers/vidmag.pdf. The first-order
    approximation holds for displacements below an eighth of the wavelength, so fine levels are
    amplified less than coarse ones, by their equation 14.

    Args:
        clip: RGB in [0, 1].
        factor: how many times motion is magnified.
        band: see :data:`Method`.
        reach: usual length of the magnified motion in pixels, from which the limits follow.
    """
    gain = factor - 1.0
    details, coarse = [], clip
    for _ in range(_LEVELS):
        smaller = _halved(coarse)
        details.append(coarse - _doubled(smaller, coarse.shape))
        coarse = smaller
    parts = [*details, coarse]
    # The wavelength of a level is about 4 of its pixels; the coarsest is not limited.
    motion = reach / factor
    changes = []
    for level, part in enumerate(parts):
        wavelength = 4.0 * 2**level
        limit = gain if level == _LEVELS else max(0.0, wavelength / (8.0 * motion) - 1.0)
        changes.append(min(gain, limit) * _changes(part, band))
    total = changes.pop()
    for change in reversed(changes):
        total = _doubled(total, change.shape) + change
    return clip + total


def phase_based(clip: Clip, factor: float, band: Band | None = None) -> Clip:
    """Magnify motion by amplifying the change of phase in a complex steerable pyramid.

    Wadhwa et al. 2013, https://people.csail.mit.edu/nwadhwa/phase-video/, with four orientations
    and bands of one octave. Phases are averaged over neighbours, weighted by amplitude, against
    noise.

    Raises:
        ModuleNotFoundError: the package pyrtools, which has the pyramid, is not installed.
    """
    if importlib.util.find_spec("pyrtools") is None:
        raise ModuleNotFoundError(
            f"phase-based magnification needs pyrtools: {install_command('magnify')}."
        )
    _, height, width, _ = clip.shape
    # The pyramid is exact for even sizes only.
    sides = [(0, 0), (0, height % 2), (0, width % 2), (0, 0)]
    padded = np.pad(clip, sides, mode="edge")
    channels = [_phase_based(padded[..., channel], factor, band) for channel in range(3)]
    return np.stack(channels, axis=-1)[:, :height, :width]


def _phase_based(
    clip: Float[np.ndarray, "time height width"], factor: float, band: Band | None
) -> Float[np.ndarray, "time height width"]:
    import pyrtools

    make = functools.partial(pyrtools.pyramids.SteerablePyramidFreq, order=3, is_complex=True)
    pyramids: list[Any] = [make(frame) for frame in clip]
    for name, first in pyramids[0].pyr_coeffs.items():
        if not isinstance(name, tuple):
            continue  # the residuals are real and have no phase
        coefficients = np.stack([pyramid.pyr_coeffs[name] for pyramid in pyramids])
        # Relative to the first frame, so that phases wrap only where motion is large.
        change = np.angle(coefficients * np.conj(first))
        change = change if band is None else _band_passed(change, band)
        weight = np.abs(coefficients) + 1e-9
        smooth = functools.partial(ndimage.gaussian_filter, sigma=(0, _SMOOTHING, _SMOOTHING))
        change = smooth(change * weight) / smooth(weight)
        coefficients *= np.exp(1j * (factor - 1.0) * change)
        for pyramid, magnified_band in zip(pyramids, coefficients):
            pyramid.pyr_coeffs[name] = magnified_band
    return np.stack([pyramid.recon_pyr() for pyramid in pyramids]).astype(np.float32)


BASELINES: dict[str, Method] = {"eulerian": eulerian, "phase": phase_based}
"""Methods that need no training, by name."""


def compare(
    methods: dict[str, Method],
    factor: float,
    noise: float,
    *,
    clips: int,
    size: int,
    seed: int = 0,
) -> dict[str, float]:
    """Return the mean PSNR in dB of each method against the truth, for vibrating objects.

    A clip has 24 frames, begins at rest and vibrates with a period of 8 frames; magnified, layers
    move up to 12 pixels. Frames at rest are not scored. ``unchanged`` in the result is the PSNR of
    the input itself.

    Args:
        methods: methods by name; their band is :data:`VIBRATION`.
        factor: how many times motion is magnified.
        noise: standard deviation of the noise in the input, relative to white.
        clips: number of clips.
        size: side of the square frames in pixels, a multiple of 8.
        seed: seed of the clips; the scenes do not depend on factor and noise.
    """
    totals = dict.fromkeys(["unchanged", *methods], 0.0)
    for clip, truth in _test_clips(factor, noise, clips, size, seed):
        moves = np.arange(_LENGTH) % (_PERIOD // 2) != 0
        for name in totals:
            made = clip if name == "unchanged" else methods[name](clip, factor, VIBRATION)
            scores = psnr_uint8(jnp.asarray(made[moves]), jnp.asarray(truth[moves]))
            totals[name] += float(scores.mean()) / clips
    return totals


def _test_clips(
    factor: float, noise: float, count: int, size: int, seed: int
) -> Iterator[tuple[Clip, Clip]]:
    """Yield clips, and the same clips with their motion magnified."""
    config = MagnifiedConfig(crop=size)
    amounts = np.sin(2 * np.pi / _PERIOD * np.arange(_LENGTH)).astype(np.float32)
    film = _film(config)
    # Other keys than those of training, which are folded from the seed and the step.
    for key in jax.random.split(jax.random.fold_in(jax.random.key(seed), 0x7E57), count):
        key_scene, key_noise = jax.random.split(key)
        clip = magnified.quantised(key_noise, film(key_scene, amounts / factor), noise)
        yield np.asarray(clip), np.asarray(film(key_scene, amounts))


@functools.cache
def _film(config: MagnifiedConfig) -> Callable[..., jax.Array]:
    return jax.jit(functools.partial(magnified.film, config=config))


def _changes(values: np.ndarray, band: Band | None) -> np.ndarray:
    """Change of each value over time: in a band of frequencies, or since the first frame."""
    return values - values[:1] if band is None else _band_passed(values, band)


def _band_passed(values: np.ndarray, band: Band) -> np.ndarray:
    """Keep the frequencies of a band along the first axis, by an ideal filter."""
    spectrum = np.fft.rfft(values, axis=0)
    frequencies = np.fft.rfftfreq(len(values))
    spectrum[(frequencies < band[0]) | (frequencies > band[1])] = 0.0
    return np.fft.irfft(spectrum, n=len(values), axis=0).astype(values.dtype)


def _halved(
    frames: Float[np.ndarray, "time height width 3"],
) -> Float[np.ndarray, "time _height _width 3"]:
    return ndimage.gaussian_filter(frames, (0, 1, 1, 0), mode="nearest")[:, ::2, ::2]


def _doubled(
    frames: Float[np.ndarray, "time height width 3"], shape: tuple[int, ...]
) -> Float[np.ndarray, "time _height _width 3"]:
    return np.asarray(jax.image.resize(frames, (*frames.shape[:1], *shape[1:3], 3), "linear"))
