# SPDX-License-Identifier: Apache-2.0
"""Labelled clips for classification, in folders ``root/CLASS/clip.avi`` like UCF101 and HMDB51.

The seed and a batch's number determine its clips, frames and crops. One number is therefore enough
to resume, and processes can share a batch without communication.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

from flavr_jax.data.sequences import Clip, Picture, subfolders
from flavr_jax.data.sets import folder

__all__ = ["LabelledBatch", "LabelledClips", "LabelledConfig", "LabelledLoader", "read"]

LAYOUT = "CLASS/clip.avi, a folder a class with videos or folders of images in it"
_BATCHES_AHEAD = 3


@dataclasses.dataclass(frozen=True)
class LabelledConfig:
    """Size and spacing of the samples that are cut from labelled clips, and how they are read.

    Attributes:
        frames: number of frames in a sample; a clip that is too short is repeated.
        spacing: number of clip frames from one frame of the sample to the next.
        crop: side of the square crop in pixels, a multiple of 8.
        batch_size: number of samples in a step, over all devices.
        flips: mirror half of the training samples; switch it off if left and right matter to the
            classes.
        threads: number of threads that read and decode.
    """

    frames: int = 16
    spacing: int = 2
    crop: int = 224
    batch_size: int = 32
    flips: bool = True
    threads: int = 8

    def __post_init__(self) -> None:
        for name in ("frames", "spacing", "batch_size", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` is {getattr(self, name)}; it is at least 1.")
        if self.crop < 8 or self.crop % 8:
            raise ValueError(
                f"`crop` is {self.crop}; it is a multiple of 8. "
                f"Use {8 * max(1, round(self.crop / 8))}."
            )


@dataclasses.dataclass(frozen=True)
class LabelledClips:
    """Paths and classes of clips; files are opened only when samples are read.

    Attributes:
        classes: class names; a label is an index into them.
        paths: a video file or a folder of images for each clip.
        labels: label of each clip.
    """

    classes: tuple[str, ...]
    paths: tuple[Path, ...]
    labels: tuple[int, ...]


class LabelledBatch(NamedTuple):
    """Samples and labels on the host."""

    clips: UInt8[np.ndarray, "batch time height width 3"]
    labels: Int[np.ndarray, " batch"]


def read(root: Path, listing: Path | None = None) -> LabelledClips:
    """Find all clips of a folder, or those named in a list.

    Args:
        root: folder with one subfolder for each class.
        listing: text file such as UCF101's ``trainlist01.txt``: ``CLASS/clip.avi`` at the
            beginning of each line.

    Raises:
        FileNotFoundError: there are no classes or no clips, or a listed clip is missing.
        ValueError: a listed clip is of no class.
    """
    folders = subfolders(root, layout=LAYOUT)
    classes = tuple(path.name for path in folders)
    if listing is None:
        found = [
            (entry, label)
            for label, each in enumerate(folders)
            for entry in sorted(each.iterdir())
            if entry.is_dir() or entry.suffix.lower() in folder.SUFFIXES
        ]
    else:
        names = [line.split()[0] for line in listing.read_text().splitlines() if line.strip()]
        if strange := [name for name in names if Path(name).parts[0] not in classes]:
            raise ValueError(
                f"{listing} names {strange[0]}, but {root} has no such class; its classes are "
                f"{', '.join(classes)}."
            )
        found = [(root / name, classes.index(Path(name).parts[0])) for name in names]
        if missing := [str(path) for path, _ in found if not path.exists()]:
            raise FileNotFoundError(f"{missing[0]} is missing, but {listing} names it.")
    if not found:
        raise FileNotFoundError(f"{root} holds no clips; the layout read is {LAYOUT}.")
    paths, labels = zip(*found)
    return LabelledClips(classes, paths, labels)


class LabelledLoader(Iterator[LabelledBatch]):
    """Endless iterator over batches, read ahead by threads; each epoch is shuffled anew."""

    def __init__(
        self,
        source: LabelledClips,
        config: LabelledConfig,
        *,
        training: bool = True,
        seed: int = 0,
        process: int = 0,
        processes: int = 1,
    ) -> None:
        """Start at batch 0.

        Args:
            source: clips and labels.
            config: which samples are cut from them.
            training: shuffle clips and cut at random places; otherwise keep the order and cut from
                the middle.
            seed: seed of order and crops.
            process: index of this process; it reads its own share of every batch.
            processes: number of processes.
        """
        self._source, self._config, self._training, self._seed = source, config, training, seed
        self._numbers = range(process, config.batch_size, processes)
        self._pool = ThreadPoolExecutor(config.threads, thread_name_prefix="labelled")
        self._ahead: collections.deque[list[Future[tuple[np.ndarray, int]]]] = collections.deque()
        self._next = 0

    def __next__(self) -> LabelledBatch:
        """Return this process's share of the next batch."""
        while len(self._ahead) < _BATCHES_AHEAD:
            first = (self._next + len(self._ahead)) * self._config.batch_size
            self._ahead.append([self._pool.submit(self._sample, first + n) for n in self._numbers])
        samples = [sample.result() for sample in self._ahead.popleft()]
        self._next += 1
        clips, labels = zip(*samples)
        return LabelledBatch(np.stack(clips), np.array(labels, np.int32))

    def get_state(self) -> dict[str, Any]:
        """Return the number of the next batch, for saving."""
        return {"batch": self._next}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from a state returned by :meth:`get_state`."""
        self._ahead.clear()
        self._next = state["batch"]

    def _sample(self, number: int) -> tuple[UInt8[np.ndarray, "time height width 3"], int]:
        epoch, place = divmod(number, len(self._source.paths))
        rng = np.random.default_rng((self._seed, number)) if self._training else None
        if self._training:
            # Seeded only by seed and epoch, so that all processes and threads get the same order.
            order = np.random.default_rng((self._seed, epoch)).permutation(len(self._source.paths))
            place = int(order[place])
        clip = folder.clips(self._source.paths[place])[0]
        return _cut(clip, self._config, rng), self._source.labels[place]


def _cut(
    clip: Clip, config: LabelledConfig, rng: np.random.Generator | None
) -> UInt8[np.ndarray, "time height width 3"]:
    """Read one sample: at random with ``rng``, or from the middle and without flips if None."""
    share = rng.random(3) if rng is not None else np.full(3, 0.5)
    room = len(clip) - (config.frames - 1) * config.spacing
    start = int(share[0] * max(room, 1))
    # The remainder repeats a clip that is too short.
    numbers = [(start + n * config.spacing) % len(clip) for n in range(config.frames)]
    window = np.stack([_square(clip.read(n), config.crop, share[1:], clip.name) for n in numbers])
    if rng is not None and config.flips and rng.random() < 0.5:
        window = window[:, :, ::-1]
    return np.ascontiguousarray(window)


def _square(
    frame: Picture, crop: int, share: np.ndarray, name: str
) -> UInt8[np.ndarray, "crop crop 3"]:
    room = np.array(frame.shape[:2]) - crop
    if room.min() < 0:
        raise ValueError(
            f"{name} is {frame.shape[1]}×{frame.shape[0]}, smaller than the crop of {crop}; "
            "use a smaller `crop`."
        )
    top, left = (share * (room + 1)).astype(int)
    return frame[top : top + crop, left : left + crop]
