# SPDX-License-Identifier: Apache-2.0
"""Measure precision and recall of cut detection on joined clips; needs no network."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from flavr_jax.timeline import cuts
from flavr_jax.typing import Frame
from flavr_jax.video.files import reader

WIDTH = 160  # clips of all sizes are reduced to 160×90, so that they can be joined


@dataclass(frozen=True)
class Options:
    """Join pieces of clips that have no cuts of their own, and detect the cuts between them.

    There are four kinds of joins: straight cuts, dissolves and fades over 5 to 20 frames, and
    pieces with a flash of 1 to 3 frames in them. Only straight cuts should be detected.
    """

    clips: Annotated[Path, tyro.conf.Positional]
    """Folder of video files, each a single shot."""
    joins: int = 200
    """Number of joins of each kind."""
    seed: int = 0
    """Seed for the choice of pieces."""


def main(options: Options) -> None:
    """Print precision, recall, and the number of false detections in each kind of join."""
    paths = sorted(path for path in options.clips.iterdir() if path.suffix in (".mp4", ".mkv"))
    if len(paths) < 2:
        raise ValueError(f"{options.clips} holds {len(paths)} videos (.mp4, .mkv); two are needed.")
    pieces = [frames for path in paths if len(frames := read(path)) >= 8]
    chance, found = random.Random(options.seed), Counter[str]()
    for kind, frames, truth in timelines(pieces, options.joins, chance):
        claimed = set(cuts.find_cuts(frames))
        found["right"] += len(claimed & truth)
        found["missed"] += len(truth - claimed)
        found["false in " + kind] += len(claimed - truth)
    wrong = sum(count for name, count in found.items() if name.startswith("false"))
    print(f"{len(pieces)} clips, {dict(found)}")
    print(f"precision {found['right'] / (found['right'] + wrong):.3f}")
    print(f"recall {found['right'] / (found['right'] + found['missed']):.3f}")


def read(path: Path, most: int = 60) -> list[Frame]:
    """Read the first ``most`` frames of a clip at 160×90, whatever its aspect ratio."""
    frames = []
    for frame, _ in zip(reader.open_source(path), range(most)):
        rows, columns = (
            np.linspace(0, length - 1, count).round().astype(int)
            for length, count in zip(frame.pixels.shape, (WIDTH * 9 // 16, WIDTH))
        )
        frames.append(frame.pixels[rows[:, None], columns])
    return frames


def timelines(
    pieces: list[list[Frame]], count: int, chance: random.Random
) -> Iterator[tuple[str, list[Frame], set[int]]]:
    """Yield the kind of each join, its frames, and the indices of the frames after a cut."""
    for _ in range(count):
        one, two = (np.stack(piece) for piece in chance.sample(pieces, 2))
        length = min(chance.randint(5, 20), len(one) // 2, len(two) // 2)
        share = (np.arange(1, length + 1) / (length + 1))[:, None, None, None]
        leaving, coming = (1 - share) * one[-length:], share * two[:length]
        yield "cut", [*one, *two], {len(one)}  # the only join that should be detected
        yield "dissolve", whole([one[:-length], leaving + coming, two[length:]]), set()
        black = np.zeros_like(one[:1])
        yield "fade", whole([one[:-length], leaving, black, coming, two[length:]]), set()
        flash, start = one.copy(), chance.randint(1, len(one) - 5)
        flash[start : start + chance.randint(1, 3)] = chance.choice([0, 255])
        yield "flash", list(flash), set()


def whole(parts: list[np.ndarray]) -> list[Frame]:
    """Concatenate parts and round them to 8 bits."""
    return list(np.rint(np.concatenate(parts)).astype(np.uint8))
