# SPDX-License-Identifier: Apache-2.0
"""Real clips as one array on the device, and training windows cut from it there.

A few minutes of video at 352 lines fit on a GPU as 8-bit frames, so nothing is decoded or copied
while training. The array is an argument of whatever is jitted, never captured: captured, it would
become a constant of the program, and compilation would take minutes and then fail.

A window takes its inputs ``spacing`` frames apart. Where ``spacing`` is a multiple of 8 all eighths
of the middle interval were filmed; a spacing of 4 gives the quarters, 2 or 6 the half. The rest is
masked.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
from pathlib import Path
from typing import NamedTuple

import av
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float, Int, Key, UInt8

from flavr_jax.data import augment

__all__ = ["ClipBank", "WindowTable", "draw", "read_folder", "tabulate"]

_AUGMENT = augment.AugmentConfig()
_SPACINGS = (2, 4, 6, 8, 12, 16)


@dataclasses.dataclass(frozen=True)
class ClipBank:
    """All frames of all clips, each upright or lying so that ``height`` is its short side.

    Attributes:
        frames: the clips one after another; a narrow one is continued to the right by its mirror.
        start: index of each clip's first frame.
        length: number of frames of each clip.
        width: columns of each clip that were filmed.
    """

    frames: UInt8[np.ndarray, "frames height width 3"]
    start: Int[np.ndarray, " clips"]
    length: Int[np.ndarray, " clips"]
    width: Int[np.ndarray, " clips"]


class WindowTable(NamedTuple):
    """The kinds of windows to draw: one row for a clip and a spacing, with its log-probability."""

    start: Int[Array, " rows"]
    length: Int[Array, " rows"]
    width: Int[Array, " rows"]
    spacing: Int[Array, " rows"]
    log_weight: Float[Array, " rows"]


def read_folder(folder: Path, *, height: int = 352, width: int = 640, workers: int = 8) -> ClipBank:
    """Decode every video of a folder, scaled to ``height`` lines and cut to at most ``width``.

    Portrait clips are turned by 90°: motion up and down is motion too.

    Raises:
        FileNotFoundError: when the folder holds no .mp4 file.
    """
    paths = sorted(folder.glob("*.mp4"))
    if not paths:
        raise FileNotFoundError(f"{folder} holds no .mp4 file; name a folder of training clips.")
    lengths = [_count_frames(path) for path in paths]
    frames = np.empty((sum(lengths), height, width, 3), np.uint8)
    starts = np.cumsum([0, *lengths[:-1]])
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        widths = list(
            pool.map(
                lambda path, start, length: _read_into(frames[start : start + length], path),
                paths,
                starts,
                lengths,
            )
        )
    return ClipBank(frames, starts, np.array(lengths), np.array(widths))


def tabulate(bank: ClipBank, *, samples: int = 6) -> WindowTable:
    """The windows worth training on, by how wrong the average of the two middle frames is there.

    That error grows with motion and detail; a window is the likelier the nearer it is to 0.04,
    where DAVIS is: below there is little to put right, above little to match. A clip's weight also
    grows with the root of its length: long ones repeat themselves.
    """
    rows = []
    for start, length, width in zip(bank.start, bank.length, bank.width):
        for spacing in _SPACINGS:
            n_windows = int(length) - 3 * spacing
            if n_windows < 1:
                continue
            first = start + spacing + np.linspace(0, n_windows - 1, samples).astype(int)
            before, middle, after = (
                bank.frames[first + shift, 2::4, 2 : int(width) : 4].astype(np.float32) / 255
                for shift in (0, spacing // 2, spacing)
            )
            error = float(np.abs(middle - (before + after) / 2).mean())
            error = max(error, 1e-4)
            weight = np.sqrt(n_windows) * error * np.exp(-error / 0.04)
            rows.append((start, length, width, spacing, np.log(weight)))
    if not rows:
        raise ValueError(f"every clip is too short; a window spans {3 * _SPACINGS[0] + 1} frames.")
    *integers, log_weight = zip(*rows)
    return WindowTable(
        *(jnp.array(column, jnp.int32) for column in integers),
        log_weight=jnp.array(log_weight, jnp.float32),
    )


def draw(
    key: Key[Array, ""],
    times: Float[Array, " time"],
    size: tuple[int, int],
    frames: UInt8[Array, "frames rows columns 3"],
    table: WindowTable,
    config: augment.AugmentConfig = _AUGMENT,
) -> tuple[Float[Array, "time height width 3"], Float[Array, " time"]]:
    """One augmented window at the given times, and 1 for each time that was filmed, else 0.

    Args:
        key: chooses window and augmentation.
        times: in intervals between inputs, from 0 to 3.
        size: height and width of the crop; transposed crops only where they are equal.
        frames: as in ``ClipBank``, on the device.
        table: what to choose from.
        config: how windows are augmented.
    """
    key_row, key_place, key_change = jax.random.split(key, 3)
    change = augment.draw(key_change, config)
    row = jax.random.categorical(key_row, table.log_weight)
    start, length, width, spacing = (column[row] for column in table[:4])
    # Indices first, pictures later: turning time round costs nothing this way.
    moments = jnp.where(change.backwards, 3.0 - times, times) * spacing.astype(jnp.float32)
    indices = jnp.round(moments).astype(jnp.int32)
    filmed = (jnp.abs(moments - indices.astype(jnp.float32)) < 1e-3).astype(jnp.float32)
    limits = jnp.stack(
        [
            length - 3 * spacing,
            jnp.asarray(frames.shape[1] - size[0] + 1, jnp.int32),
            width - size[1] + 1,
        ]
    )
    first, top, left = jax.random.randint(key_place, (3,), 0, limits)

    def crop(index: Int[Array, ""]) -> UInt8[Array, "height width 3"]:
        place = (start + first + index, top, left, jnp.zeros_like(top))
        return lax.dynamic_slice(frames, place, (1, *size, 3))[0]

    window = augment.reorient(jax.vmap(crop)(indices).astype(jnp.float32) / 255.0, change)
    return augment.recolour(window, change), filmed


def _count_frames(path: Path) -> int:
    with av.open(path) as container:
        return sum(packet.size > 0 for packet in container.demux(video=0))


def _read_into(frames: UInt8[np.ndarray, "n height width 3"], path: Path) -> int:
    """Decode a clip into ``frames``; the number of columns filmed."""
    height, width = frames.shape[1:3]
    columns = 0
    with av.open(path) as container:
        for target, frame in zip(frames, container.decode(video=0), strict=True):
            scale = height / min(frame.height, frame.width)
            shape = round(frame.width * scale), round(frame.height * scale)
            picture = frame.to_ndarray(format="rgb24", width=shape[0], height=shape[1])
            if picture.shape[0] > picture.shape[1]:
                picture = np.rot90(picture)
            columns = min(width, picture.shape[1])
            left = (picture.shape[1] - columns) // 2
            missing = width - columns
            target[:] = np.pad(
                picture[:, left : left + columns], ((0, 0), (0, missing), (0, 0)), "symmetric"
            )
    return columns
