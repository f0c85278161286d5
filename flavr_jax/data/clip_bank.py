# SPDX-License-Identifier: Apache-2.0
"""Real clips held on the device as one array, and training windows cut from it there.

A few minutes of video at 352 lines fit on a GPU as 8-bit frames, so training decodes and copies
nothing. Pass the array as an argument to jitted functions. A captured array becomes a constant of
the program, and compiling a constant of this size takes minutes and then fails.

The inputs of a window are ``spacing`` frames apart. If ``spacing`` is a multiple of 8, a frame was
filmed at every eighth of the middle interval; with a spacing of 4 or 12 at every quarter, with 2 or
6 only at the half. Targets at other times get weight 0.
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

__all__ = ["ClipBank", "SamplingTable", "draw", "filmed", "read_folder", "tabulate"]

_AUGMENT = augment.AugmentConfig()
_SPACINGS = (2, 4, 6, 8, 12, 16)


@dataclasses.dataclass(frozen=True)
class ClipBank:
    """All frames of all clips in one array; portrait clips are rotated to landscape.

    Attributes:
        frames: the clips one after another; narrow clips are padded on the right by mirroring.
        start: index of each clip's first frame.
        length: number of frames of each clip.
        width: number of columns of each clip without the padding.
    """

    frames: UInt8[np.ndarray, "frames height width 3"]
    start: Int[np.ndarray, " clips"]
    length: Int[np.ndarray, " clips"]
    width: Int[np.ndarray, " clips"]


class SamplingTable(NamedTuple):
    """Distribution that windows are sampled from: a row per clip and spacing, with a log-weight."""

    start: Int[Array, " rows"]
    length: Int[Array, " rows"]
    width: Int[Array, " rows"]
    spacing: Int[Array, " rows"]
    log_weight: Float[Array, " rows"]


def read_folder(folder: Path, *, height: int = 352, width: int = 640, workers: int = 8) -> ClipBank:
    """Decode every .mp4 file of a folder, scaled to ``height`` lines.

    Columns beyond ``width`` are cropped on both sides. Portrait clips are rotated by 90° rather
    than cropped to a strip.

    Raises:
        FileNotFoundError: the folder holds no .mp4 file.
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


def tabulate(bank: ClipBank, *, samples: int = 6) -> SamplingTable:
    """Weight every clip and spacing by how much can be learned from its windows.

    The measure is the mean absolute error e of averaging the two middle inputs, which grows with
    motion and detail. The weight e · exp(−e / 0.04) is largest at e = 0.04, the value of DAVIS:
    windows with a smaller error are nearly still, those with a larger one are hard to match. The
    weight is multiplied by the square root of the number of windows, not by the number, because
    long clips repeat themselves.

    Args:
        bank: clips to sample from.
        samples: number of windows of each clip and spacing at which the error is measured.

    Raises:
        ValueError: no clip is long enough for a window.
    """
    rows = []
    for start, length, width in zip(bank.start, bank.length, bank.width):
        for spacing in _SPACINGS:
            # From its first input to its fourth, a window spans 3 spacings.
            n_windows = int(length) - 3 * spacing
            if n_windows < 1:
                continue
            first = start + spacing + np.linspace(0, n_windows - 1, samples).astype(int)
            # Every fourth pixel is enough for a mean error, and sixteen times faster.
            before, middle, after = (
                bank.frames[first + shift, 2::4, 2 : int(width) : 4].astype(np.float32) / 255
                for shift in (0, spacing // 2, spacing)
            )
            error = float(np.abs(middle - (before + after) / 2).mean())
            error = max(error, 1e-4)  # a still clip keeps a finite log-weight
            weight = np.sqrt(n_windows) * error * np.exp(-error / 0.04)
            rows.append((start, length, width, spacing, np.log(weight)))
    if not rows:
        raise ValueError(f"every clip is too short; a window spans {3 * _SPACINGS[0] + 1} frames.")
    *integers, log_weight = zip(*rows)
    return SamplingTable(
        *(jnp.array(column, jnp.int32) for column in integers),
        log_weight=jnp.array(log_weight, jnp.float32),
    )


def draw(
    key: Key[Array, ""],
    times: Float[Array, " time"],
    size: tuple[int, int],
    frames: UInt8[Array, "frames rows columns 3"],
    table: SamplingTable,
    config: augment.AugmentConfig = _AUGMENT,
) -> tuple[Float[Array, "time height width 3"], Float[Array, " time"]]:
    """Draw one augmented window.

    Args:
        key: random key that determines clip, spacing, crop and augmentation.
        times: times of the frames in intervals between inputs, from 0 to 3.
        size: height and width of the crop in pixels; only square crops are transposed.
        frames: ``ClipBank.frames`` on the device.
        table: rows to sample from.
        config: how windows are augmented.

    Returns:
        The frames nearest to ``times`` in [0, 1], and for each 1.0 if it was filmed exactly at its
        time, else 0.0.
    """
    key_place = jax.random.split(key, 3)[1]
    change = _change(key, config)
    start, length, width, spacing = (column[_row(key, table)] for column in table[:4])
    indices, is_filmed = _nearest(times, spacing, change)
    # First frame, top row and left column are drawn within these exclusive limits; `width` leaves
    # the mirrored padding out.
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

    return augment.apply(change, jax.vmap(crop)(indices)), is_filmed


def filmed(
    key: Key[Array, ""],
    times: Float[Array, " time"],
    table: SamplingTable,
    config: augment.AugmentConfig = _AUGMENT,
) -> Float[Array, " time"]:
    """Tell which frames of the window that :func:`draw` draws were filmed, without drawing it."""
    return _nearest(times, table.spacing[_row(key, table)], _change(key, config))[1]


def _row(key: Key[Array, ""], table: SamplingTable) -> Int[Array, ""]:
    """Draw the row of a window's clip and spacing."""
    return jax.random.categorical(jax.random.split(key, 3)[0], table.log_weight)


def _change(key: Key[Array, ""], config: augment.AugmentConfig) -> augment.Transform:
    """Draw the augmentation of a window."""
    return augment.draw(jax.random.split(key, 3)[2], config)


def _nearest(
    times: Float[Array, " time"], spacing: Int[Array, ""], change: augment.Transform
) -> tuple[Int[Array, " time"], Float[Array, " time"]]:
    """Frames nearest to the times, counted from the window's first, and which are exact."""
    # Reversing the times before frames are gathered costs nothing; reversing frames would copy.
    moments = jnp.where(change.backwards, 3.0 - times, times) * spacing.astype(jnp.float32)
    indices = jnp.round(moments).astype(jnp.int32)
    return indices, (jnp.abs(moments - indices.astype(jnp.float32)) < 1e-3).astype(jnp.float32)


def _count_frames(path: Path) -> int:
    with av.open(f"file:{path}") as container:
        # The last packet is empty: it flushes the decoder.
        return sum(packet.size > 0 for packet in container.demux(video=0))


def _read_into(frames: UInt8[np.ndarray, "n height width 3"], path: Path) -> int:
    """Decode a clip into ``frames`` and return its number of columns without padding."""
    height, width = frames.shape[1:3]
    columns = 0
    with av.open(f"file:{path}") as container:
        for target, frame in zip(frames, container.decode(video=0), strict=True):
            scale = height / min(frame.height, frame.width)
            shape = round(frame.width * scale), round(frame.height * scale)
            # FFmpeg scales and converts in one pass, so the full-size frame never becomes RGB.
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
