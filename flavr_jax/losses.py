# SPDX-License-Identifier: Apache-2.0
"""Training losses: weighted sums of named distances, such as ``"1*l1+0.1*census"``.

A window supervises only the times whose true frame is known, so an 8× network can learn from 8×, 4×
and 2× footage at once. Every window has the same weight, however many of its times are known.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeAlias

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax
from jaxtyping import Float, Key

from flavr_jax.metrics import lpips, ssim
from flavr_jax.typing import Windows

__all__ = ["DISTANCES", "Distance", "Objective", "parse"]

Distance: TypeAlias = Callable[[Windows, Windows], Float[Array, "batch time"]]
"""Distance of each predicted frame from the true frame; 0 if they are equal."""

_EPSILON = 1e-3  # difference at which the Charbonnier distance turns from square to linear
_DELTA = 0.02  # difference at which the Huber distance turns linear: about 5 levels of 255
_LEVELS = 5  # at most, in a Laplacian pyramid
_CENSUS_RADIUS = 3  # pixels: the transform compares a pixel with its 7×7 neighbourhood
_BANDS = 2  # frequency bands whose strength is compared
_NEIGHBOURHOOD = 8  # pixels of a band, along each axis, over which its strength is averaged
_FAINT = 1e-3  # strength of a band below which differences hardly count
_PERCEPTUAL = ("lpips", "style")  # distances between features of LPIPS's network


@dataclasses.dataclass(frozen=True)
class Objective:
    """A weighted sum of distances.

    Attributes:
        terms: name and weight of each distance.
        perceptual: parameters of LPIPS, if a distance needs its features.
    """

    terms: tuple[tuple[str, float], ...]
    perceptual: lpips.Weights | None = dataclasses.field(default=None, compare=False, repr=False)

    def __call__(
        self,
        prediction: Windows,
        target: Windows,
        weights: Float[Array, "batch time"],
        key: Key[Array, ""] | None = None,
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """Compute the loss, and the value of each term before it is weighted.

        Args:
            prediction: predicted frames.
            target: true frames; their content is ignored where the weight is 0.
            weights: weight of each frame; 0 if its true frame is not known.
            key: if given, LPIPS and style, which need a network and are slow, are evaluated on one
                random frame per window, drawn with probability proportional to its weight, which
                does not change the expected loss. None evaluates all frames.
        """
        known = (weights > 0)[:, :, None, None, None]
        # An unknown target may contain NaN, and 0 × NaN is NaN, so select instead of multiplying.
        target = jnp.where(known, target, lax.stop_gradient(prediction))
        frames = prediction, target, weights
        values = {}
        for name, _ in self.terms:
            draw = key if name in _PERCEPTUAL else None
            evaluated = frames if draw is None else _one_of_each(draw, *frames)
            with jax.named_scope(name):
                values[name] = _average(self._distance(name)(*evaluated[:2]), evaluated[2])
        total = jnp.zeros(())
        for name, weight in self.terms:
            total += weight * values[name]
        return total, values

    def _distance(self, name: str) -> Distance:
        if name not in _PERCEPTUAL:
            return DISTANCES[name]
        assert self.perceptual is not None, "parse() loads what its terms need"
        compare = {"lpips": lpips.lpips, "style": lpips.style}[name]
        return _perceptual_distance(compare, self.perceptual)


def parse(text: str) -> Objective:
    """Parse a loss such as ``"2*l1+0.1*census"``; a name without a weight has weight 1.

    Raises:
        ValueError: a name is unknown, or a weight is not a number above 0.
        ModuleNotFoundError: the loss contains ``lpips`` or ``style``, whose parameters are not
            installed.
    """
    terms: dict[str, float] = {}
    for term in text.split("+"):
        weight, star, name = term.strip().rpartition("*")
        name = name.strip()
        if name not in (*DISTANCES, *_PERCEPTUAL):
            known = ", ".join([*DISTANCES, *_PERCEPTUAL])
            raise ValueError(f"`loss` asks for {name!r}; known distances are {known}.")
        try:
            terms[name] = float(weight) if star else 1.0
        except ValueError:
            terms[name] = 0.0
        if not terms[name] > 0:
            raise ValueError(
                f"`loss` has the term {term.strip()!r}; write weight*name, such as 0.1*census, "
                "with a weight above 0."
            )
    needed = not terms.keys().isdisjoint(_PERCEPTUAL)
    return Objective(tuple(terms.items()), lpips.load_weights() if needed else None)


def l1(prediction: Windows, target: Windows) -> Float[Array, "batch time"]:
    """Mean absolute difference; the paper's loss."""
    return _mean(jnp.abs(prediction - target))


def l2(prediction: Windows, target: Windows) -> Float[Array, "batch time"]:
    """Mean squared difference; PSNR is its negative logarithm, in dB."""
    return _mean(jnp.square(prediction - target))


def charbonnier(prediction: Windows, target: Windows) -> Float[Array, "batch time"]:
    """Mean of √(difference² + 0.001²): L1, but smooth at 0.

    References:
        Charbonnier et al. 1994, https://doi.org/10.1109/ICIP.1994.413553
    """
    return _mean(jnp.sqrt(jnp.square(prediction - target) + _EPSILON**2))


def huber(prediction: Windows, target: Windows) -> Float[Array, "batch time"]:
    """Huber distance: half the squared difference up to 0.02, linear beyond."""
    return _mean(optax.losses.huber_loss(prediction, target, delta=_DELTA))


def structural(prediction: Windows, target: Windows) -> Float[Array, "batch time"]:
    """1 − 2-D SSIM per colour channel; values outside [0, 1] are clipped and get no gradient."""
    return 1.0 - ssim.ssim_2d(prediction, target)


def laplacian(prediction: Windows, target: Windows) -> Float[Array, "batch time"]:
    """L1 between Laplacian pyramids; level k has weight 2ᵏ.

    The coarse levels provide a useful gradient for objects that are predicted many pixels away from
    their place. There are up to 5 levels, fewer for frames under 64 pixels.

    References:
        Niklaus & Liu 2018, https://arxiv.org/abs/1803.10967; Burt & Adelson 1983.
    """
    rest = prediction - target  # pyramids are linear: use one pyramid of the difference
    side = min(rest.shape[2:4])
    levels = max(1, min(_LEVELS, side.bit_length() - 2))
    total = jnp.zeros(rest.shape[:2])
    for level in range(levels - 1):
        smaller = _halve(_halve(rest, 2), 3)
        detail = rest - jax.image.resize(smaller, rest.shape, "linear")
        total += 2.0**level * _mean(jnp.abs(detail))
        rest = smaller
    return total + 2.0 ** (levels - 1) * _mean(jnp.abs(rest))


def census(prediction: Windows, target: Windows) -> Float[Array, "batch time"]:
    """Soft Hamming distance of 7×7 census transforms, which ignores changes of brightness.

    The census transform records for every pixel which of its neighbours are brighter. Here the
    comparisons are smooth instead of binary, so that they have gradients.

    References:
        Meister et al. 2018, section 3.2, https://arxiv.org/abs/1711.07837
    """
    grey = jnp.array([0.299, 0.587, 0.114]) * 255.0
    frames = jnp.stack([prediction @ grey, target @ grey])  # [2, b, t, h, w]
    side = 2 * _CENSUS_RADIUS + 1
    height, width = frames.shape[-2] - side + 1, frames.shape[-1] - side + 1
    offsets = jnp.array([(y, x) for y in range(side) for x in range(side) if (y, x) != (3, 3)])

    def view(at: Array) -> Array:
        return lax.dynamic_slice(frames, (0, 0, 0, *at), (*frames.shape[:3], height, width))

    # Without a checkpoint, the backward pass keeps several images for each of the 48 offsets.
    @jax.checkpoint
    def add(total: Array, offset: Array) -> tuple[Array, None]:
        brighter = view(offset) - view(jnp.array([_CENSUS_RADIUS, _CENSUS_RADIUS]))
        described = brighter * lax.rsqrt(0.81 + jnp.square(brighter))
        difference = jnp.square(described[0] - described[1])
        return total + (difference / (0.1 + difference)).mean(axis=(-2, -1)), None

    total, _ = lax.scan(add, jnp.zeros(frames.shape[1:3]), offsets)
    return total / len(offsets)


def detail(prediction: Windows, target: Windows) -> Float[Array, "batch time"]:
    """L1 between local strengths of fine detail, wherever exactly the detail is.

    If the place of a detail is uncertain, L1 and L2 are least where it is blurred. This distance is
    least where there is as much detail as in the target, so it keeps frames sharp. The strength is
    the root mean square of a band of the Laplacian pyramid over 8×8 of its pixels. The two finest
    bands are compared, and their distances added.

    References:
        Heeger & Bergen 1995, https://doi.org/10.1145/218380.218446 (textures with equal statistics
        of bands look alike)
    """
    total = jnp.zeros(prediction.shape[:2])
    for _ in range(_BANDS):
        smooth = [_smooth(_smooth(frames, 2), 3) for frames in (prediction, target)]
        ours = _strength(prediction - smooth[0])
        theirs = _strength(target - smooth[1])
        total += _mean(jnp.abs(ours - theirs))
        prediction, target = (frames[:, :, ::2, ::2] for frames in smooth)
    return total


DISTANCES: Mapping[str, Distance] = MappingProxyType(
    {
        "l1": l1,
        "l2": l2,
        "charbonnier": charbonnier,
        "huber": huber,
        "ssim": structural,
        "laplacian": laplacian,
        "census": census,
        "detail": detail,
    }
)
"""Distances that have no parameters, by their names in recipes."""


def _perceptual_distance(compare: Callable[..., Array], weights: lpips.Weights) -> Distance:
    """Return LPIPS or style as a distance, at the device's default matrix precision."""

    def distance(prediction: Windows, target: Windows) -> Float[Array, "batch time"]:
        pictures = (x.reshape(-1, *x.shape[2:]) for x in (prediction, target))
        distances = compare(weights, *pictures, precision=lax.Precision.DEFAULT)
        return distances.reshape(prediction.shape[:2])

    return distance


def _strength(band: Windows) -> Float[Array, "batch time _rows _columns 3"]:
    """Root mean square over squares of 8×8 pixels, without incomplete ones at the border."""
    side = _NEIGHBOURHOOD
    batch, time, height, width, colours = band.shape
    rows, columns = max(1, height // side), max(1, width // side)
    tall, wide = min(side, height), min(side, width)
    cut = band[:, :, : rows * tall, : columns * wide]
    squares = cut.reshape(batch, time, rows, tall, columns, wide, colours)
    # Without the constant, the gradient would be infinite in flat squares.
    return jnp.sqrt(jnp.square(squares).mean(axis=(3, 5)) + _FAINT**2)


def _halve(x: Array, axis: int) -> Array:
    """Blur along an axis by 1-4-6-4-1 and keep every second value."""
    return _smooth(x, axis, stride=2)


def _smooth(x: Array, axis: int, stride: int = 1) -> Array:
    """Blur along an axis by 1-4-6-4-1 with repeated edges, and keep every ``stride``-th value."""
    widths = [(2, 2) if i == axis else (0, 0) for i in range(x.ndim)]
    padded, length = jnp.pad(x, widths, mode="edge"), x.shape[axis]
    total = jnp.zeros(())
    for shift, weight in enumerate((1, 4, 6, 4, 1)):
        part = lax.slice_in_dim(padded, shift, shift + length, stride, axis)
        total = total + weight / 16 * part
    return total


def _one_of_each(
    key: Key[Array, ""], prediction: Windows, target: Windows, weights: Float[Array, "batch time"]
) -> tuple[Windows, Windows, Float[Array, "batch 1"]]:
    """Draw one frame per window, in proportion to weight; it has weight 0 if none is known."""
    chosen = jax.random.categorical(key, jnp.log(weights + 1e-30))[:, None]
    at = chosen[:, :, None, None, None]
    return (
        jnp.take_along_axis(prediction, at, axis=1),
        jnp.take_along_axis(target, at, axis=1),
        jnp.take_along_axis(weights, chosen, axis=1),
    )


def _mean(distance: Array) -> Float[Array, "batch time"]:
    """Average over height, width and colour."""
    return distance.mean(axis=(2, 3, 4))


def _average(
    of_frame: Float[Array, "batch time"], weights: Float[Array, "batch time"]
) -> Float[Array, ""]:
    """Return the mean over windows of the weighted mean over times."""
    total = jnp.where(weights > 0, weights * of_frame, 0.0).sum(axis=1)
    return (total / jnp.maximum(weights.sum(axis=1), 1e-6)).mean()
