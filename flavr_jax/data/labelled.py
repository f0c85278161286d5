# SPDX-License-Identifier: Apache-2.0
"""Folders of labelled clips, for classification: ``root/CLASS/clip.avi``, as UCF101 and HMDB51 are.

A batch is a function of its number: which clips, which frames of them and which part of the
picture follow from the seed. So a stopped run goes on by a number, and processes share the work.
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

__all__ = ["Labelled", "LabelledClips", "LabelledConfig", "LabelledLoader", "read"]

LAYOUT = "CLASS/clip.avi, a folder a class with videos or folders of images in it"
_BATCHES_AHEAD = 3


@dataclasses.dataclass(frozen=True)
class LabelledConfig:
    """What is cut from labelled clips.

    Attributes:
        frames: of each clip that a sample has; a clip that is too short begins again.
        spacing: frames from one of them to the next.
        crop: side of the square that is cut out, a multiple of 8.
        batch_size: samples a step, over all devices.
        flips: half of the samples are mirrored; not for classes that tell left from right.
        threads: that read and decode.
    """

    frames: int = 16
    spacing: int = 2
    crop: int = 224
    batch_size: int = 32
    flips: bool = True
    threads: int = 8


@dataclasses.dataclass(frozen=True)
class LabelledClips:
    """Clips and their classes; nothing is opened yet.

    Attributes:
        classes: their names, in order.
        paths: a video or a folder of images each.
        labels: the number of each one's class.
    """

    classes: tuple[str, ...]
    paths: tuple[Path, ...]
    labels: tuple[int, ...]


class Labelled(NamedTuple):
    """A batch on the host."""

    clips: UInt8[np.ndarray, "batch time height width 3"]
    labels: Int[np.ndarray, " batch"]


def read(root: Path, listing: Path | None = None) -> LabelledClips:
    """All clips of a folder, or those that a list names, a line each as in ``trainlist01.txt``.

    Raises:
        FileNotFoundError: the folder has no classes, a class no clips, or a listed clip is missing.
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
        found = [(root / name, classes.index(Path(name).parts[0])) for name in names]
        if missing := [str(path) for path, _ in found if not path.exists()]:
            raise FileNotFoundError(f"{missing[0]} is missing, but {listing} names it.")
    if not found:
        raise FileNotFoundError(f"{root} holds no clips; the layout read is {LAYOUT}.")
    paths, labels = zip(*found)
    return LabelledClips(classes, paths, labels)


class LabelledLoader(Iterator[Labelled]):
    """Endless batches in an order that is shuffled anew every epoch; read ahead by threads."""

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
        """Begin at batch 0.

        Args:
            source: where clips are.
            config: what is cut from them.
            training: cut at random; else from the middle, and in order.
            seed: of order and cuts.
            process: which share of every batch is read here …
            processes: … of how many.
        """
        self._source, self._config, self._training, self._seed = source, config, training, seed
        self._numbers = range(process, config.batch_size, processes)
        self._pool = ThreadPoolExecutor(config.threads, thread_name_prefix="labelled")
        self._ahead: collections.deque[list[Future[tuple[np.ndarray, int]]]] = collections.deque()
        self._next = 0

    def __next__(self) -> Labelled:
        """The next batch: this process's share of it."""
        while len(self._ahead) < _BATCHES_AHEAD:
            first = (self._next + len(self._ahead)) * self._config.batch_size
            self._ahead.append([self._pool.submit(self._sample, first + n) for n in self._numbers])
        samples = [sample.result() for sample in self._ahead.popleft()]
        self._next += 1
        clips, labels = zip(*samples)
        return Labelled(np.stack(clips), np.array(labels, np.int32))

    def get_state(self) -> dict[str, Any]:
        """The number of the next batch."""
        return {"batch": self._next}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on with that batch."""
        self._ahead.clear()
        self._next = state["batch"]

    def _sample(self, number: int) -> tuple[UInt8[np.ndarray, "time height width 3"], int]:
        epoch, place = divmod(number, len(self._source.paths))
        rng = np.random.default_rng((self._seed, number)) if self._training else None
        if self._training:
            # The order of an epoch is the same in every process and thread.
            order = np.random.default_rng((self._seed, epoch)).permutation(len(self._source.paths))
            place = int(order[place])
        clip = folder.clips(self._source.paths[place])[0]
        return _cut(clip, self._config, rng), self._source.labels[place]


def _cut(
    clip: Clip, config: LabelledConfig, rng: np.random.Generator | None
) -> UInt8[np.ndarray, "time height width 3"]:
    """Frames of a clip, all cut at one place; at random, or from the middle."""
    share = rng.random(3) if rng is not None else np.full(3, 0.5)
    room = len(clip) - (config.frames - 1) * config.spacing
    start = int(share[0] * max(room, 1))
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
