# SPDX-License-Identifier: Apache-2.0
"""What a prediction costs: distances by name, weighted and added, as in ``"1*l1+0.1*census"``.

A window supervises the times at which its truth is known: an 8× network learns from 8×, 4× and
2× footage at once. Every window counts the same, however many of its times are known.
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
"""How far each predicted frame is from the true one: 0 is equal."""

_EPSILON = 1e-3  # of Charbonnier's root, in units of colour
_DELTA = 0.02  # where Huber's parabola becomes a line: about 5 levels of 255
_LEVELS = 5  # of a Laplacian pyramid
_CENSUS_RADIUS = 3


@dataclasses.dataclass(frozen=True)
class Objective:
    """A weighted sum of distances.

    Attributes:
        terms: name and weight of each.
        perceptual: weights of LPIPS where it is one of them.
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
        """The loss, and what each term is before it is weighted.

        Args:
            prediction: frames as predicted.
            target: true frames; what they hold where the weight is 0 does not matter.
            weights: of each frame; 0 where its truth is not known.
            key: lets LPIPS, a network of its own, look at one frame of each window, drawn by
                weight: the same on average. None looks at all.
        """
        known = (weights > 0)[:, :, None, None, None]
        # A target without truth may be anything, even NaN: choose, do not multiply.
        target = jnp.where(known, target, lax.stop_gradient(prediction))
        frames = prediction, target, weights
        values = {}
        for name, _ in self.terms:
            looks_at = frames if key is None or name != "lpips" else _one_of_each(key, *frames)
            values[name] = _average(self._distance(name)(*looks_at[:2]), looks_at[2])
        total = jnp.zeros(())
        for name, weight in self.terms:
            total += weight * values[name]
        return total, values

    def _distance(self, name: str) -> Distance:
        if name == "lpips":
            assert self.perceptual is not None, "parse() loads what its terms need"
            return _perceptual_distance(self.perceptual)
        return DISTANCES[name]


def parse(text: str) -> Objective:
    """The loss that ``"weight*name+weight*name"`` describes; a name alone has weight 1.

    Raises:
        ValueError: for a name that is not known, with those that are, or a weight that is no
            number above 0.
        ModuleNotFoundError: when ``lpips`` is asked for and its weights are not installed.
    """
    terms: dict[str, float] = {}
    for term in text.split("+"):
        weight, star, name = term.strip().rpartition("*")
        name = name.strip()
        if name not in (*DISTANCES, "lpips"):
            known = ", ".join([*DISTANCES, "lpips"])
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
    return Objective(tuple(terms.items()), lpips.load_weights() if "lpips" in terms else None)


def l1(prediction: Windows, target: Windows) -> Float[Array, "batch time"]:
    """Mean absolute difference; the paper's loss."""
    return _mean(jnp.abs(prediction - target))


def l2(prediction: Windows, target: Windows) -> Float[Array, "batch time"]:
    """Mean squared difference, which PSNR is the logarithm of."""
    return _mean(jnp.square(prediction - target))


def charbonnier(prediction: Windows, target: Windows) -> Float[Array, "batch time"]:
    """Mean of √(difference² + 0.001²): L1 with a rounded tip, so that small errors settle.

    References:
        Charbonnier et al. 1994, https://doi.org/10.1109/ICIP.1994.413553
    """
    return _mean(jnp.sqrt(jnp.square(prediction - target) + _EPSILON**2))


def huber(prediction: Windows, target: Windows) -> Float[Array, "batch time"]:
    """Half the squared difference up to 0.02, a line of that slope beyond."""
    return _mean(optax.losses.huber_loss(prediction, target, delta=_DELTA))


def structural(prediction: Windows, target: Windows) -> Float[Array, "batch time"]:
    """1 − SSIM, the 2-D one of each colour; it does not see what is outside [0, 1]."""
    return 1.0 - ssim.ssim_2d(prediction, target)


def laplacian(prediction: Windows, target: Windows) -> Float[Array, "batch time"]:
    """L1 between Laplacian pyramids; level k counts 2ᵏ times, so that motion far off is felt.

    Up to 5 levels, fewer for frames under 64 pixels.

    References:
        Niklaus & Liu 2018, https://arxiv.org/abs/1803.10967; Burt & Adelson 1983.
    """
    rest = prediction - target  # the pyramid is linear: that of the difference is the difference
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
    """Soft Hamming distance of 7×7 census transforms: structure counts, brightness does not.

    Every pixel is described by which of its neighbours are brighter, smoothly.

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

    # The gradient would keep several images an offset; they are cheaper to compute again.
    @jax.checkpoint
    def add(total: Array, offset: Array) -> tuple[Array, None]:
        brighter = view(offset) - view(jnp.array([_CENSUS_RADIUS, _CENSUS_RADIUS]))
        described = brighter * lax.rsqrt(0.81 + jnp.square(brighter))
        difference = jnp.square(described[0] - described[1])
        return total + (difference / (0.1 + difference)).mean(axis=(-2, -1)), None

    total, _ = lax.scan(add, jnp.zeros(frames.shape[1:3]), offsets)
    return total / len(offsets)


DISTANCES: Mapping[str, Distance] = MappingProxyType(
    {
        "l1": l1,
        "l2": l2,
        "charbonnier": charbonnier,
        "huber": huber,
        "ssim": structural,
        "laplacian": laplacian,
        "census": census,
    }
)
"""The distances that need no weights, by the name that a recipe calls them."""


def _perceptual_distance(weights: lpips.Weights) -> Distance:
    def distance(prediction: Windows, target: Windows) -> Float[Array, "batch time"]:
        pictures = (x.reshape(-1, *x.shape[2:]) for x in (prediction, target))
        distances = lpips.lpips(weights, *pictures, precision=lax.Precision.DEFAULT)
        return distances.reshape(prediction.shape[:2])

    return distance


def _halve(x: Array, axis: int) -> Array:
    """Smoothed by 1-4-6-4-1 and every second value kept, edges repeated."""
    widths = [(2, 2) if i == axis else (0, 0) for i in range(x.ndim)]
    padded, length = jnp.pad(x, widths, mode="edge"), x.shape[axis]
    total = jnp.zeros(())
    for shift, weight in enumerate((1, 4, 6, 4, 1)):
        part = lax.slice_in_dim(padded, shift, shift + length, 2, axis)
        total = total + weight / 16 * part
    return total


def _one_of_each(
    key: Key[Array, ""], prediction: Windows, target: Windows, weights: Float[Array, "batch time"]
) -> tuple[Windows, Windows, Float[Array, "batch 1"]]:
    """One frame of each window, drawn by weight; its weight is 0 where none is known."""
    chosen = jax.random.categorical(key, jnp.log(weights + 1e-30))[:, None]
    at = chosen[:, :, None, None, None]
    return (
        jnp.take_along_axis(prediction, at, axis=1),
        jnp.take_along_axis(target, at, axis=1),
        jnp.take_along_axis(weights, chosen, axis=1),
    )


def _mean(distance: Array) -> Float[Array, "batch time"]:
    return distance.mean(axis=(2, 3, 4))


def _average(
    of_frame: Float[Array, "batch time"], weights: Float[Array, "batch time"]
) -> Float[Array, ""]:
    """The mean over windows of the weighted mean over times; an unknown time has weight 0."""
    total = jnp.where(weights > 0, weights * of_frame, 0.0).sum(axis=1)
    return (total / jnp.maximum(weights.sum(axis=1), 1e-6)).mean()
