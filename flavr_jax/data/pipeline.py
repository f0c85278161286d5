# SPDX-License-Identifier: Apache-2.0
"""Training windows from data sets on disk, in an order that can be stopped, resumed and shared out.

grain reads by number, so the order is a permutation computed from the seed: process ``i`` of ``n``
takes every n-th window of it, and a stopped run goes on where it was by a number. Here frames are
chosen, decoded and cropped, for the cut is much smaller than the whole; everything else that is
done to a window happens on the device (``augment``).
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

__all__ = ["IN_STORE", "Loader", "LoaderConfig", "Window", "WindowReader", "WindowTable"]

_BATCHES_AHEAD = 2  # on their way to the device

IN_STORE = 4
"""Batches that each process of an idle loader has ready, or nearly; to be used up before timing."""


@dataclasses.dataclass(frozen=True)
class LoaderConfig:
    """What is cut from clips, and how fast.

    Attributes:
        crop: side of the square windows in pixels.
        batch_size: windows a batch and process.
        spacings: frames between inputs; one is drawn, so that frame rates vary. A clip that is too
            short for one does not take part in it.
        shutters: over how many frames light is gathered, odd numbers; one is drawn a window, of
            those less than its spacing. More than 1 only makes sense for clips of a high rate.
        seed: of the order and of the cuts.
        threads: that read and decode, in each process of the loader.
        workers: processes of the loader; 0 reads in this process.
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
            raise ValueError(f"`shutters` has {even}; the frame has a middle: use odd numbers.")


class Window(NamedTuple):
    """Frames of a window or batch of them; unfilmed targets are black and have weight 0."""

    inputs: UInt8[np.ndarray, "*batch 4 crop crop 3"]
    targets: UInt8[np.ndarray, "*batch outputs crop crop 3"]
    weights: Float[np.ndarray, "*batch outputs"]


class WindowTable:
    """Every window of every clip at every spacing, by number; a source that grain reads from."""

    def __init__(self, clips: list[Clip], spacings: tuple[int, ...]) -> None:
        """Count the windows.

        Raises:
            ValueError: when no clip is long enough for any spacing.
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
        """Clip, spacing and first frame of a window."""
        row = int(np.searchsorted(self._ends, number, side="right"))
        before = int(self._ends[row - 1]) if row else 0
        return int(self._clip[row]), int(self._spacing[row]), int(number) - before


class WindowReader:
    """Reads a window of the table, at one place and with one shutter for all of its frames."""

    def __init__(self, clips: list[Clip], n_outputs: int, config: LoaderConfig) -> None:
        inside = 1.0 + np.arange(1, n_outputs + 1) / (n_outputs + 1)
        self._times = np.concatenate([np.arange(N_INPUTS), inside])
        self._clips, self._config = clips, config

    def __call__(self, place: tuple[int, int, int], rng: np.random.Generator) -> Window:
        """The window that starts at a clip's frame, by clip number, spacing and that frame."""
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
                    np.stack([_cut(clip, each, corner, crop) for each in exposed])
                )
        return Window(frames[:N_INPUTS], frames[N_INPUTS:], filmed[N_INPUTS:].astype(np.float32))

    def _shutter(self, clip: Clip, spacing: int, start: int, rng: np.random.Generator) -> int:
        """One of the shutters that fit between inputs and into the clip."""
        room = min(start, len(clip) - 1 - start - (N_INPUTS - 1) * spacing)
        fitting = [s for s in self._config.shutters if s == 1 or (s < spacing and s // 2 <= room)]
        return int(rng.choice(fitting or [1]))


class _State(Protocol):
    def get_state(self) -> dict[str, Any]: ...

    def set_state(self, state: dict[str, Any]) -> None: ...

    def __next__(self) -> Any: ...


class Loader(Iterator[Window]):
    """Endless batches on the device, each sent ahead of its use; epochs are shuffled anew."""

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
        """Set up reading; nothing is read yet.

        Args:
            clips: what to cut windows from.
            n_outputs: how many frames in the middle interval are targets.
            config: how.
            process: which share of the windows is read here …
            processes: … of how many; shares are equally long.
            sharding: where batches go; by default the first device.

        Raises:
            ModuleNotFoundError: without the extra ``train``.
            ValueError: when there are fewer windows than ``processes`` batches.
        """
        grain = _grain()
        table = WindowTable(clips, config.spacings)
        if len(table) < processes * config.batch_size:
            raise ValueError(
                f"there are {len(table)} windows, but a batch of each process takes "
                f"{processes * config.batch_size}; use a smaller `batch_size` or more clips."
            )
        order = grain.MapDataset.source(table).seed(config.seed).shuffle()
        share = order[: len(table) // processes * processes][process::processes].repeat()
        windows = share.random_map(WindowReader(clips, n_outputs, config))
        reading = grain.ReadOptions(
            num_threads=config.threads, prefetch_buffer_size=2 * config.batch_size
        )
        batches = windows.to_iter_dataset(reading).batch(config.batch_size)
        if config.workers:
            _parse_no_flags()
            batches = batches.mp_prefetch(grain.MultiprocessingOptions(num_workers=config.workers))
        self._batches: _State = iter(batches)
        self._sharding = sharding or jax.local_devices()[0]
        self._ahead: collections.deque[tuple[Window, dict[str, Any]]] = collections.deque()
        self._state = self._batches.get_state()

    def __next__(self) -> Window:
        """The next batch, as arrays on the device."""
        while len(self._ahead) <= _BATCHES_AHEAD:
            batch = jax.device_put(next(self._batches), self._sharding)
            self._ahead.append((batch, self._batches.get_state()))
        batch, self._state = self._ahead.popleft()
        return batch

    def get_state(self) -> dict[str, Any]:
        """Where the batch last given out ends: plain values, to be saved with the model."""
        return self._state

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on behind that batch, whatever was read since."""
        self._ahead.clear()
        self._batches.set_state(state)
        self._state = state


def _cut(clip: Clip, index: int, corner: np.ndarray, crop: int) -> Picture:
    """A square from a frame, its place given as shares of the room there is.

    Raises:
        ValueError: when the frame is smaller.
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
            f"the loader needs {error.name}; run pip install 'flavr-jax[train]'."
        ) from error
    return grain


def _parse_no_flags() -> None:
    """Outside of ``absl.app.run`` grain's worker processes die of flags that were never parsed."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
