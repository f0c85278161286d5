# SPDX-License-Identifier: Apache-2.0
"""Blind comparison of two methods: crops side by side, with the labels in another file.

Someone who knows which method made a picture sees what they expect. The sides are drawn at random
for each crop, and the key is not on the sheet.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from flavr_jax.data.sequences import Picture, Sequence
from flavr_jax.evaluation.scoring import Method

__all__ = ["Comparison", "compare", "sheet", "tally"]

_LINE = 18  # pixels, of a line of text
_GAP = 6  # pixels between two pictures


@dataclasses.dataclass(frozen=True, eq=False)
class Comparison:
    """One crop as two methods made it.

    Attributes:
        place: sequence, window, time and position of the crop.
        left: crop of the method on the left.
        right: crop of the method on the right.
        first_is_left: whether the first method is on the left.
    """

    place: str
    left: Picture
    right: Picture
    first_is_left: bool


def compare(
    first: Method,
    second: Method,
    sequences: Iterable[Sequence],
    *,
    count: int = 30,
    side: int = 192,
    seed: int = 0,
) -> list[Comparison]:
    """Make crops of random frames where something moves, in random order.

    A crop is the one of eight random places where the two middle inputs differ most.

    Args:
        first: a method.
        second: another.
        sequences: to predict; each gives about the same number of crops.
        count: number of crops.
        side: height and width of a crop in pixels, at most those of the frames.
        seed: determines frames, places, order and sides.

    Raises:
        ValueError: there are no windows, or frames are smaller than a crop.
    """
    rng = np.random.default_rng(seed)
    usable = [each for each in sequences if len(each)]
    if not usable:
        raise ValueError("there are no windows to compare; choose a data set with longer clips.")
    made = []
    for number in range(count):
        sequence = usable[number % len(usable)]
        start = int(rng.integers(len(sequence)))
        one = dataclasses.replace(sequence, inputs=sequence.inputs[start : start + 4], targets=())
        before, after = (one.read(one.inputs[n]).astype(np.int16) for n in (1, 2))
        top, left = _moving_place(np.abs(after - before).mean(axis=-1), side, rng)
        time = int(rng.integers(sequence.factor - 1))
        pair = [
            _pixels(np.asarray(next(iter(method(one))))[time])[top : top + side, left : left + side]
            for method in (first, second)
        ]
        straight = bool(rng.integers(2))
        place = (
            f"{sequence.clip.name}, window {start}, t = {(time + 1) / sequence.factor:g}, "
            f"row {top}, column {left}"
        )
        left_crop, right_crop = pair if straight else pair[::-1]
        made.append(Comparison(place, left_crop, right_crop, straight))
    return [made[index] for index in rng.permutation(count)]


def sheet(comparisons: list[Comparison], *, columns: int = 3) -> Image.Image:
    """Draw numbered pairs; nothing on the sheet tells the methods apart."""
    side = comparisons[0].left.shape[0]
    width, height = 2 * side + 3 * _GAP, side + _LINE + _GAP
    rows = -(-len(comparisons) // columns)
    picture = Image.new("RGB", (columns * width, rows * height), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(13)
    for index, each in enumerate(comparisons):
        left, top = index % columns * width + _GAP, index // columns * height
        draw.text((left, top + 1), f"{index + 1}    left / right", "black", font)
        picture.paste(Image.fromarray(each.left), (left, top + _LINE))
        picture.paste(Image.fromarray(each.right), (left + side + _GAP, top + _LINE))
    return picture


def tally(votes: str, first_is_left: list[bool]) -> tuple[int, int, int]:
    """Count how often each method was preferred.

    Args:
        votes: a letter per crop: l for left, r for right, = for neither; spaces do not count.
        first_is_left: from the key, in the order of the sheet.

    Returns:
        Votes for the first method, for the second, and for neither.

    Raises:
        ValueError: there is another number of votes than of crops, or another letter.
    """
    letters = "".join(votes.split()).lower()
    if len(letters) != len(first_is_left) or set(letters) - set("lr="):
        raise ValueError(
            f"`votes` has {len(letters)} letters for {len(first_is_left)} crops; write "
            "l, r or = for each."
        )
    firsts = sum(
        letter != "=" and (letter == "l") == is_left
        for letter, is_left in zip(letters, first_is_left)
    )
    ties = letters.count("=")
    return firsts, len(letters) - firsts - ties, ties


def _moving_place(change: np.ndarray, side: int, rng: np.random.Generator) -> tuple[int, int]:
    """Choose the one of eight random places with the most change; return its top and left."""
    height, width = change.shape
    if height < side or width < side:
        raise ValueError(
            f"frames are {width}×{height}, but crops are {side}×{side}; choose smaller crops."
        )
    tops = rng.integers(height - side + 1, size=8)
    lefts = rng.integers(width - side + 1, size=8)
    places = list(zip(tops.tolist(), lefts.tolist()))
    return max(places, key=lambda at: change[at[0] : at[0] + side, at[1] : at[1] + side].mean())


def _pixels(frame: np.ndarray) -> Picture:
    return np.rint(255 * np.clip(frame, 0, 1)).astype(np.uint8)
