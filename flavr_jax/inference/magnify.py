# SPDX-License-Identifier: Apache-2.0
"""Magnification of the motion in clips of any length, by a network that was trained for it."""

from __future__ import annotations

import collections
import dataclasses
import functools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from flavr_jax import checkpoint
from flavr_jax.inference.computation import NonFiniteError, cause_of
from flavr_jax.models import magnifier
from flavr_jax.models.magnifier import MagnifierConfig
from flavr_jax.typing import Frame, Windows
from flavr_jax.video.frames import TimedFrame

__all__ = ["Network", "Reference", "load", "magnified"]

Reference: TypeAlias = Literal["first", "previous"]
"""The frame at rest, from which motion is measured: the first frame, or the previous one."""


@dataclasses.dataclass(frozen=True)
class Network:
    """A loaded network that magnifies motion.

    Attributes:
        config: its settings.
        params: its parameters, on the device, in the dtype of the computation.
        provenance: its origin.
    """

    config: MagnifierConfig
    params: Any
    provenance: dict[str, Any]

    def __call__(self, windows: Windows, factor: float) -> Windows:
        """Magnify the motion in windows of the frame at rest and three consecutive frames.

        Args:
            windows: RGB in [0, 1], of any size.
            factor: how many times the motion is magnified.

        Returns:
            A frame for each window, in [0, 1].

        Raises:
            NonFiniteError: the network's output is NaN or infinite.
        """
        height, width = windows.shape[2:4]
        sides = [(0, 0), (0, 0), (0, -height % 8), (0, -width % 8), (0, 0)]
        padded = jnp.pad(jnp.asarray(windows, jnp.float32), sides, mode="edge")
        factors = jnp.full(len(windows), factor, jnp.float32)
        frames = _apply(self.config, self.params, padded, factors)[:, :, :height, :width]
        if not bool(jnp.isfinite(frames).all()):
            raise NonFiniteError("a magnified frame", cause_of("fp32"))
        return jnp.clip(frames, 0.0, 1.0)


def load(path: Path) -> Network:
    """Load a checkpoint of a network that magnifies motion.

    It computes in bfloat16 on GPUs and in float32 elsewhere.

    Raises:
        FileNotFoundError: there is no such directory.
        ValueError: it is another network, or damaged.
    """
    config, params, provenance = checkpoint.load_magnifier(path)
    dtype = jnp.bfloat16 if jax.default_backend() == "gpu" else jnp.float32
    return Network(config, jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params), provenance)


def magnified(
    frames: Iterable[TimedFrame], network: Network, factor: float, reference: Reference = "first"
) -> Iterator[TimedFrame]:
    """Yield the frames of a clip with their motion magnified; alpha stays as it is.

    Only four frames are kept in memory. The first and the last frame stand in for their missing
    neighbours.

    Args:
        frames: the clip, 8 or 16 bits.
        network: from :func:`load`.
        factor: how many times motion is magnified.
        reference: the frame at rest.
    """
    rest: Frame | None = None
    for before, now, after in _neighbours(frames):
        if rest is None or reference == "previous":
            rest = before.pixels
        window = [rest, before.pixels, now.pixels, after.pixels]
        most = np.iinfo(now.pixels.dtype).max
        colours = np.stack([pixels[..., :3] for pixels in window]).astype(np.float32) / most
        made = np.asarray(network(jnp.asarray(colours)[None], factor)[0, 0])
        pixels = now.pixels.copy()
        pixels[..., :3] = np.rint(made * most).astype(pixels.dtype)
        yield TimedFrame(pixels, now.pts, now.duration)


def _neighbours(
    frames: Iterable[TimedFrame],
) -> Iterator[tuple[TimedFrame, TimedFrame, TimedFrame]]:
    """Yield each frame with its neighbours; the first and the last stand in for missing ones."""
    held: collections.deque[TimedFrame] = collections.deque(maxlen=3)
    for frame in frames:
        held.extend([frame] if held else [frame, frame])
        if len(held) == 3:
            yield held[0], held[1], held[2]
    if held:
        yield held[-2], held[-1], held[-1]


@functools.partial(jax.jit, static_argnums=0)
def _apply(
    config: MagnifierConfig, params: Any, windows: Windows, factors: Float[Array, " batch"]
) -> Windows:
    return magnifier.apply(config, params, windows, factors)
