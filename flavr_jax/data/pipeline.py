# SPDX-License-Identifier: Apache-2.0
"""Loader of training windows from data sets on disk, resumable and shared between processes.

grain addresses windows by number, so an epoch's order is a permutation computed from the seed.
Process ``i`` of ``n`` takes every n-th window of it, and a single number is enough to resume. The
host chooses, decodes and crops frames, because a crop is much smaller to transfer than a frame;
all other augmentation runs on the device (:mod:`flavr_jax.data.augment`).
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jaxtyping import Float, UInt8

from flavr_jax.data import augment
from flavr_jax.data.sequences import N_INPUTS, Clip, Picture
from flavr_jax.extras import install_command

__all__ = ["BUFFERED_BATCHES", "Loader", "LoaderConfig", "Window", "WindowIndex", "WindowReader"]

_BATCHES_AHEAD = 2  # transfers to the device that overlap with the step

BUFFERED_BATCHES = 4
"""Upper bound on the batches that each process of an idle loader has prepared. A benchmark takes
these first, so that it times reading and not the buffer."""


@dataclasses.dataclass(frozen=True)
class LoaderConfig:
    """Which windows are cut from clips, and with how many threads and processes.

    Attributes:
        crop: side of the square windows in pixels.
        batch_size: number of windows in a batch of one process.
        spacings: numbers of frames from one input to the next. Windows of every spacing occur, so
            frame rates vary; clips too short for a spacing are used with the others.
        shutters: odd numbers of frames to average into one, which adds motion blur. For each
            window, one that is smaller than the spacing is drawn. Use values above 1 only for
            clips of a high frame rate.
        seed: seed of the order and of the crops.
        threads: threads that read and decode in each loader process.
        workers: number of loader processes; 0 reads in the calling process.
    """

    crop: int = 256
    batch_size: int = 24
    spacings: tuple[int, ...] = (2,)
    shutters: tuple[int, ...] = (1,)
    seed: int = 0
    threads: int = 8
    workers: int = 0

    def __post_init__(self) -> None:
        if even := [shutter for shutter in self.shutters if shutter % 2 == 0]:
            raise ValueError(
                f"`shutters` has {even}; a shutter is centred on a frame: use odd numbers."
            )


class Window(NamedTuple):
    """One window, or a batch of them; targets that were not filmed are black with weight 0."""

    inputs: UInt8[np.ndarray, "*batch 4 crop crop 3"]
    targets: UInt8[np.ndarray, "*batch outputs crop crop 3"]
    weights: Float[np.ndarray, "*batch outputs"]


class WindowIndex:
    """Numbers all windows of all clips at all spacings; grain reads it as its source."""

    def __init__(self, clips: list[Clip], spacings: tuple[int, ...]) -> None:
        """Count the windows.

        Raises:
            ValueError: no clip is long enough for any spacing.
        """
        rows = [
            (clip, spacing, len(each) - (N_INPUTS - 1) * spacing)
            for clip, each in enumerate(clips)
            for spacing in spacings
            if len(each) > (N_INPUTS - 1) * spacing
        ]
        if not rows:
            raise ValueError(
                f"no clip has the {(N_INPUTS - 1) * min(spacings) + 1} frames that a spacing of "
                f"{min(spacings)} needs; choose smaller `spacings` or longer clips."
            )
        clip, spacing, counts = np.array(rows, np.int64).T
        self._clip, self._spacing, self._ends = clip, spacing, np.cumsum(counts)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, number: int) -> tuple[int, int, int]:
        """Return a window's clip number, spacing and first frame."""
        row = int(np.searchsorted(self._ends, number, side="right"))
        before = int(self._ends[row - 1]) if row else 0
        return int(self._clip[row]), int(self._spacing[row]), int(number) - before


class WindowReader:
    """Reads windows; crop and shutter are drawn once for all frames of a window."""

    def __init__(self, clips: list[Clip], n_outputs: int, config: LoaderConfig) -> None:
        inside = 1.0 + np.arange(1, n_outputs + 1) / (n_outputs + 1)
        self._times = np.concatenate([np.arange(N_INPUTS), inside])
        self._clips, self._config = clips, config

    def __call__(self, place: tuple[int, int, int], rng: np.random.Generator) -> Window:
        """Read the window at ``place``: clip number, spacing and first frame."""
        number, spacing, start = place
        clip, crop = self._clips[number], self._config.crop
        indices, filmed = augment.window_indices(start, spacing, self._times)
        reach = self._shutter(clip, spacing, start, rng) // 2
        corner = rng.random(2)
        frames = np.zeros((len(indices), crop, crop, 3), np.uint8)
        for frame, index, known in zip(frames, indices, filmed):
            if known:
                exposed = range(index - reach, index + reach + 1)
                frame[:] = augment.expose(
                    np.stack([_read_crop(clip, each, corner, crop) for each in exposed])
                )
        return Window(frames[:N_INPUTS], frames[N_INPUTS:], filmed[N_INPUTS:].astype(np.float32))

    def _shutter(self, clip: Clip, spacing: int, start: int, rng: np.random.Generator) -> int:
        """Draw a shutter; its exposures neither overlap between inputs nor leave the clip."""
        # Frames of the clip before the first input, and after the last.
        room = min(start, len(clip) - 1 - start - (N_INPUTS - 1) * spacing)
        fitting = [s for s in self._config.shutters if s == 1 or (s < spacing and s // 2 <= room)]
        return int(rng.choice(fitting or [1]))


class _Resumable(Protocol):
    def get_state(self) -> dict[str, Any]: ...

    def set_state(self, state: dict[str, Any]) -> None: ...

    def __next__(self) -> Any: ...


class Loader(Iterator[Window]):
    """Endless iterator over batches on the device; each epoch is shuffled anew.

    Transfers run ahead of use, so they overlap with the training step.
    """

    def __init__(
        self,
        clips: list[Clip],
        n_outputs: int,
        config: LoaderConfig,
        *,
        process: int = 0,
        processes: int = 1,
        sharding: jax.sharding.Sharding | jax.Device | None = None,  # pyright: ignore[reportInvalidTypeForm]
    ) -> None:
        """Set up the loader; the first frames are read when the first batch is taken.

        Args:
            clips: clips to cut windows from.
            n_outputs: number of target frames in the middle interval.
            config: which windows, and how they are read.
            process: index of this process; it reads its own share of the windows.
            processes: number of processes; their shares are disjoint and equally long.
            sharding: where batches are placed; None is the first local device.

        Raises:
            ModuleNotFoundError: the extra ``train`` is not installed.
            ValueError: there are fewer windows than one batch for each process takes.
        """
        grain = _grain()
        index = WindowIndex(clips, config.spacings)
        if len(index) < processes * config.batch_size:
            raise ValueError(
                f"there are {len(index)} windows, but one batch for each process takes "
                f"{processes * config.batch_size}; use a smaller `batch_size` or more clips."
            )
        order = grain.MapDataset.source(index).seed(config.seed).shuffle()
        # Shares are equal, because processes step together: one with more would have to wait.
        share = order[: len(index) // processes * processes][process::processes].repeat()
        windows = share.random_map(WindowReader(clips, n_outputs, config))
        reading = grain.ReadOptions(
            num_threads=config.threads,
            prefetch_buffer_size=max(2 * config.batch_size, config.threads),
        )
        batches = windows.to_iter_dataset(reading).batch(config.batch_size)
        if config.workers:
            _parse_no_flags()
            batches = batches.mp_prefetch(grain.MultiprocessingOptions(num_workers=config.workers))
        self._batches: _Resumable = iter(batches)
        self._sharding = sharding or jax.local_devices()[0]
        self._ahead: collections.deque[tuple[Window, dict[str, Any]]] = collections.deque()
        self._state = self._batches.get_state()

    def __next__(self) -> Window:
        """Return the next batch, as arrays on the device."""
        while len(self._ahead) <= _BATCHES_AHEAD:
            # grain's state is ahead of what was returned by the batches in transfer, so that each
            # batch is kept with the state after it.
            batch = jax.device_put(next(self._batches), self._sharding)
            self._ahead.append((batch, self._batches.get_state()))
        batch, self._state = self._ahead.popleft()
        return batch

    def get_state(self) -> dict[str, Any]:
        """Return the position after the last batch returned, as plain values to save."""
        return self._state

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from a position returned by :meth:`get_state`."""
        self._ahead.clear()
        self._batches.set_state(state)
        self._state = state


def _read_crop(clip: Clip, index: int, corner: np.ndarray, crop: int) -> Picture:
    """Read a frame and crop a square from it.

    ``corner`` is the position of the top left corner relative to the range it may have, in [0, 1):
    the same values give the same place in every frame of a clip.

    Raises:
        ValueError: the frame is smaller than the crop.
    """
    frame = clip.read(int(index))
    room = np.array(frame.shape[:2]) - crop
    if room.min() < 0:
        raise ValueError(
            f"{clip.name} is {frame.shape[1]}×{frame.shape[0]}, smaller than the crop of {crop}; "
            "use a smaller `crop`, or leave the clip out."
        )
    top, left = (corner * (room + 1)).astype(int)
    return frame[top : top + crop, left : left + crop]


def _grain() -> Any:
    try:
        import grain
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"the loader needs {error.name}; run {install_command('train')}."
        ) from error
    return grain


def _parse_no_flags() -> None:
    """Mark absl's flags as parsed: grain's worker processes fail if they are not.

    Normally ``absl.app.run`` does this, but this project's programs do not use it.
    """
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
