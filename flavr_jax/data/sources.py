# SPDX-License-Identifier: Apache-2.0
"""The table of data sets: how each is read, and its evaluation protocol.

A score means nothing without its protocol: a different crop, choice of frames or way of averaging
changes it by more than methods differ. Every table of scores is therefore printed with a card that
states the protocol.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias

from flavr_jax.data import array_record
from flavr_jax.data.sequences import Sequence
from flavr_jax.data.sets import (
    adobe240,
    davis,
    folder,
    gopro,
    middlebury,
    snu_film,
    ucf101,
    vimeo90k,
    xtest,
)
from flavr_jax.data.sets.folder import CutFinder

__all__ = ["SOURCES", "Average", "DataSet", "data_set"]

Average: TypeAlias = Literal["samples", "sequences"]
"""Mean over all frames, or over the means of sequences so that long ones do not weigh more."""


@dataclasses.dataclass(frozen=True)
class DataSet:
    """A data set with one evaluation protocol.

    Attributes:
        name: name in tables and on command lines.
        reader: function that reads the sequences from the unpacked folder.
        layout: folder layout that the reader expects.
        inputs: input frames → target frames, for the card.
        crop: height and width of the centre crop; None keeps whole frames.
        average: how published numbers of this protocol are averaged.
        note: origin of the protocol, published scores, and known differences from them.
        has_cuts: true if a clip may contain several scenes, as users' own videos do.
    """

    name: str
    reader: Callable[..., list[Sequence]]
    layout: str
    inputs: str
    crop: tuple[int, int] | None = None
    average: Average = "samples"
    note: str = ""
    has_cuts: bool = False

    def read(self, root: Path, *, find_cuts: CutFinder | None = None) -> list[Sequence]:
        """Read the sequences with the protocol's crop; frames are decoded later, when needed.

        Args:
            root: folder in the official layout, or a packed one.
            find_cuts: function that finds cuts; clips that may have cuts are split there.

        Raises:
            FileNotFoundError: the folder does not have the layout.
        """
        reader = self.reader
        if array_record.is_packed(root):
            reader = array_record.read
        elif self.has_cuts and find_cuts is not None:
            reader = partial(self.reader, find_cuts=find_cuts)
        return [dataclasses.replace(each, crop=self.crop) for each in reader(root)]

    def card(self) -> list[tuple[str, str]]:
        """Return the protocol as pairs of heading and text."""
        crop = f"centre {self.crop[0]}×{self.crop[1]}" if self.crop else "whole frames"
        rows = [("frames", self.inputs), ("crop", crop), ("average", f"over {self.average}")]
        return [*rows, ("note", self.note)] if self.note else rows


def data_set(name: str) -> DataSet:
    """Look up a data set by name.

    Raises:
        ValueError: the name is unknown; the message lists the known ones.
    """
    if name not in SOURCES:
        raise ValueError(f"unknown data set {name!r}; known are {', '.join(SOURCES)}.")
    return SOURCES[name]


# Frames of the windows that begin at frame s: inputs → targets.
_EVERY_SECOND = "s, s+2, s+4, s+6 → s+3, s every 2"


def _high_rate(factor: int) -> str:
    if factor == 2:
        return _EVERY_SECOND
    return (
        f"s, s+{factor}, s+{2 * factor}, s+{3 * factor} → the {factor - 1} between the middle two, "
        f"s every {factor}"
    )


_FLAVR = "FLAVR's code"
_SPLITS: tuple[tuple[str, Literal["train", "test"]], ...] = (("", "test"), ("-train", "train"))

_ALL = [
    *(
        DataSet(
            f"vimeo90k{suffix}",
            partial(vimeo90k.read, split=split),
            vimeo90k.LAYOUT,
            "1, 3, 5, 7 → 4",
            note=f"{_FLAVR}; 36.30 dB published for FLAVR on the test list",
        )
        for suffix, split in _SPLITS
    ),
    *(
        DataSet(
            f"gopro-{factor}x{suffix}",
            partial(gopro.read, split=split, factor=factor),
            gopro.LAYOUT,
            _high_rate(factor),
            crop=(512, 512),
            note=f"{_FLAVR}; 31.31 dB published for FLAVR at 8×",
        )
        for suffix, split in _SPLITS
        for factor in (4, 8)
    ),
    *(
        DataSet(
            f"adobe240-8x{suffix}",
            partial(adobe240.read, split=split, factor=8),
            adobe240.LAYOUT,
            _high_rate(8),
            crop=(512, 512),
            note=f"{_FLAVR}; 32.20 dB published for FLAVR, 31.83 in users' re-tests",
        )
        for suffix, split in _SPLITS
    ),
    DataSet(
        "ucf101",
        ucf101.read,
        ucf101.LAYOUT,
        "0, 1, 2, 3 → between 1 and 2",
        crop=(224, 224),
        note=f"{_FLAVR}; 31.38 dB in a user's re-test of FLAVR",
    ),
    DataSet("davis", davis.read, davis.LAYOUT, _EVERY_SECOND, crop=(480, 840), note=_FLAVR),
    DataSet(
        "middlebury-other",
        partial(middlebury.read, half="other"),
        middlebury.LAYOUTS["other"],
        "09, 10, 11, 12 → between 10 and 11",
        note="frames are padded; FLAVR's code resizes them to multiples of 8",
    ),
    DataSet(
        "middlebury-evaluation",
        partial(middlebury.read, half="evaluation"),
        middlebury.LAYOUTS["evaluation"],
        "09, 10, 11, 12 → between 10 and 11",
        note="true frames are not public: write predictions and submit them",
    ),
    *(
        DataSet(
            f"snu-film-{level}",
            partial(snu_film.read, level=level),
            snu_film.LAYOUT,
            f"t−{3 * near}, t−{near}, t+{near}, t+{3 * near} → t",
            crop=(720, 720),
            note=f"{_FLAVR}; samples without outer inputs are left out",
        )
        for level, near in snu_film.DISTANCES.items()
    ),
    DataSet(
        "xtest",
        xtest.read,
        xtest.LAYOUT,
        "0, 32 → 4, 8 … 28",
        note="Sim et al.'s 8×; only two inputs are given, so outer ones are mirrored in time",
    ),
    *(
        DataSet(
            f"folder-{factor}x",
            partial(folder.read, factor=factor),
            folder.LAYOUT,
            _high_rate(factor),
            average="sequences",
            note="your own clips; no published numbers",
            has_cuts=True,
        )
        for factor in (2, 4, 8)
    ),
    DataSet(
        "davis-2x",
        partial(folder.read, factor=2, pattern="davis_*.mp4"),
        "davis_*.mp4",
        _EVERY_SECOND,
        crop=(480, 840),
        average="sequences",
        note="the davis protocol on clips encoded as video: compare within this table only",
    ),
    *(
        DataSet(
            f"fps60-{factor}x",
            partial(folder.read, factor=factor, pattern="fps60_*.mp4"),
            "fps60_*.mp4",
            _high_rate(factor),
            average="sequences",
            note="clips of 60 frames a second: compare within this table only",
        )
        for factor in (2, 4, 8)
    ),
]

SOURCES: dict[str, DataSet] = {each.name: each for each in _ALL}
"""Every data set by name."""
