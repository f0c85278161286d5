# SPDX-License-Identifier: Apache-2.0
"""Windows with known in-between frames, on which calibration measures the PSNR that 8 bits cost.

They come from the user's own clips: a window takes every second frame, and the frame between its
middle two is the truth. Without clips, synthetic windows are used. The windows of :func:`extremes`
have no truth: their contrast is the one that makes a network's features largest.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from flavr_jax.data.sequences import Clip
from flavr_jax.data.sets import folder
from flavr_jax.data.synthetic import scenes

__all__ = ["Example", "drawn", "extremes", "of_clips"]

_SCENES = 4  # windows judged as one synthetic clip; the loss of a single window varies too much


@dataclasses.dataclass(frozen=True, eq=False)
class Example:
    """One window of a clip, and frames inside its middle interval.

    Attributes:
        clip: name of the clip; windows of one clip are judged together.
        inputs: RGB in [0, 1]; height and width are multiples that the network accepts.
        truth: true frames, likewise RGB in [0, 1], evenly spaced inside the middle interval.
    """

    clip: str
    inputs: Float[np.ndarray, "n_inputs height width 3"]
    truth: Float[np.ndarray, "between height width 3"]


def of_clips(
    paths: Iterable[Path],
    n_inputs: int,
    n_outputs: int,
    *,
    windows: int,
    size: tuple[int, int],
    multiple: int = 8,
) -> list[Example]:
    """Return windows that are spread evenly over each clip.

    Args:
        paths: videos, folders of frames, and folders of either.
        n_inputs: frames in a window.
        n_outputs: frames that the network predicts inside an interval.
        windows: how many to take from each clip.
        size: height and width of the crop from the centre of larger frames.
        multiple: heights and widths are cropped to multiples of this, as the network requires.

    Raises:
        FileNotFoundError: there is no clip.
        ValueError: a clip is too short or too small.
    """
    parts = n_outputs + 1
    step = next(k for k in range(2, parts + 1) if parts % k == 0)
    return [
        example
        for path in paths
        for clip in folder.clips(path)
        for example in _of_clip(clip, n_inputs, step, windows, size, multiple)
    ]


def _of_clip(
    clip: Clip, n_inputs: int, step: int, windows: int, size: tuple[int, int], multiple: int
) -> Iterator[Example]:
    """Yield windows of every ``step``-th frame; the truth lies between the middle two."""
    starts = len(clip) - (n_inputs - 1) * step
    if starts < 1:
        raise ValueError(
            f"{clip.name} has {len(clip)} frames, but calibration needs "
            f"{(n_inputs - 1) * step + 1}; leave it out."
        )
    before = step * ((n_inputs - 2) // 2)
    for start in sorted({(2 * n + 1) * starts // (2 * windows) for n in range(windows)}):
        inputs = range(start, start + n_inputs * step, step)
        truth = range(start + before + 1, start + before + step)
        frames = [
            [_read(clip, number, size, multiple) for number in part] for part in (inputs, truth)
        ]
        yield Example(clip.name, np.stack(frames[0]), np.stack(frames[1]))


def _read(
    clip: Clip, number: int, size: tuple[int, int], multiple: int
) -> Float[np.ndarray, "height width 3"]:
    frame = clip.read(number)
    height, width = (
        min(most, have) // multiple * multiple for most, have in zip(size, frame.shape)
    )
    if not height or not width:
        raise ValueError(
            f"{clip.name} has frames of {frame.shape[1]}×{frame.shape[0]} pixels; calibration "
            f"needs {multiple}×{multiple} or more."
        )
    top, left = (frame.shape[0] - height) // 2, (frame.shape[1] - width) // 2
    return frame[top : top + height, left : left + width].astype(np.float32) / 255


def drawn(n_inputs: int, n_outputs: int, *, count: int, size: tuple[int, int]) -> list[Example]:
    """Return synthetic windows, the same ones each time, with the truth for every predicted frame.

    Each shows a scene of its own. Four windows are judged together, as one clip.
    """
    before = (n_inputs - 2) // 2
    # Scenes are designed for four inputs, at the times 0, 1, 2 and 3: the middle ones are 1 and 2.
    times = np.arange(n_inputs) + 1 - before
    between = 1 + np.arange(1, n_outputs + 1) / (n_outputs + 1)
    draw = jax.jit(scenes.draw_many, static_argnames=("size", "config"))
    clips = draw(
        jax.random.split(jax.random.key(0), count),
        jnp.tile(jnp.asarray([*times, *between], jnp.float32), (count, 1)),
        size=size,
        config=scenes.SyntheticConfig(cut_share=0.0),
    )
    return [
        Example(f"synthetic {number // _SCENES}", clip[:n_inputs], clip[n_inputs:])
        for number, clip in enumerate(np.asarray(clips))
    ]


def extremes(
    n_inputs: int, size: tuple[int, int]
) -> Float[np.ndarray, "windows n_inputs height width 3"]:
    """Return windows of the greatest possible contrast: flashes, checkerboards, noise of 0 and 1.

    They cause larger features than natural clips do, up to three times as large in the last stages
    of the bundled network.
    """
    height, width = size
    generator = np.random.default_rng(0)
    ones = np.ones((n_inputs, height, width, 3), np.float32)
    flashes = ones * (np.arange(n_inputs) % 2)[:, None, None, None]
    found = [flashes, 1 - flashes]
    for side in (1, 4, 8, 32):  # pixels
        rows, columns = np.arange(height)[:, None] // side, np.arange(width) // side
        squares = ones * ((rows + columns) % 2)[..., None]
        grey, colours = (
            generator.integers(0, 2, (n_inputs, rows.max() + 1, columns.max() + 1, channels))
            for channels in (1, 3)
        )
        found += [squares, np.abs(squares - flashes)]
        found += [noise[:, rows, columns] * ones for noise in (grey, colours)]
    return np.stack(found).astype(np.float32)
