# SPDX-License-Identifier: Apache-2.0
"""Files of an evaluation: scores as CSV, predictions as PNG, and a contact sheet of worst frames.

Means hide how a method fails. The contact sheet shows the frames with the lowest PSNR, between
their neighbours and beside the truth.
"""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from flavr_jax.data.sequences import Picture, Sequence
from flavr_jax.evaluation.scoring import Outcome, Sample
from flavr_jax.partial import written_whole

__all__ = ["PredictionWriter", "WorstCases", "write_csv"]

_WIDTH = 320  # pixels, of one picture on the sheet
_LINE = 18  # pixels, of a line of text
_AMPLIFY = 4  # differences are shown so many times larger


def write_csv(path: Path, scores: Mapping[str, list[Sample]]) -> None:
    """Write a line for each frame and method with its place, scores and computing time.

    Args:
        path: the file; it appears when it is complete.
        scores: samples by "data set/method".

    Raises:
        OSError: the file cannot be written.
    """
    names = list(dict.fromkeys(n for of in scores.values() for each in of for n in each.values))
    with written_whole(path) as partial, partial.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(
            ["data_set", "method", "sequence", "window", "time", *names, "seconds_a_frame"]
        )
        for key, samples in scores.items():
            for each in samples:
                values = [f"{each.values[name]:.6f}" for name in names]
                place = [*key.split("/", 1), each.sequence, each.window, f"{each.time:g}"]
                table.writerow([*place, *values, f"{each.seconds:.6f}"])


class PredictionWriter:
    """Writes predicted frames as ``<folder>/<sequence>/<window>_<k>of<factor>.png``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def watch(self, outcome: Outcome, samples: list[Sample]) -> None:
        """Write a window's frames; pass this method to ``score(…, watch=[…])``.

        Raises:
            OSError: they cannot be written.
        """
        target = self._folder / outcome.sequence.clip.name
        target.mkdir(parents=True, exist_ok=True)
        for number, frame in enumerate(outcome.prediction, 1):
            name = f"{outcome.window:04d}_{number}of{outcome.sequence.factor}.png"
            with written_whole(target / name) as partial:
                Image.fromarray(_pixels(frame)).save(partial, "PNG")


@dataclasses.dataclass(frozen=True, eq=False)
class _WorstFrame:
    sample: Sample
    sequence: Sequence
    prediction: Picture

    @property
    def psnr(self) -> float:
        return self.sample.values["psnr_flavr"]


class WorstCases:
    """Keeps the frames with the lowest PSNR, and draws them."""

    def __init__(self, count: int = 6, *, of_a_sequence: int = 2) -> None:
        """Keep ``count`` frames, at most ``of_a_sequence`` per sequence: its frames look alike."""
        self._count, self._of_a_sequence = count, of_a_sequence
        self._frames: list[_WorstFrame] = []

    def watch(self, outcome: Outcome, samples: list[Sample]) -> None:
        """Keep a window's frames that are among the worst; pass it to ``score(…, watch=[…])``."""
        for number, sample in enumerate(samples):
            frame = _WorstFrame(sample, outcome.sequence, _pixels(outcome.prediction[number]))
            same = [each for each in self._frames if each.sample.sequence == sample.sequence]
            others = [each for each in self._frames if each.sample.sequence != sample.sequence]
            same = sorted([*same, frame], key=lambda each: each.psnr)[: self._of_a_sequence]
            self._frames = sorted([*others, *same], key=lambda each: each.psnr)[: self._count]

    def write(self, path: Path) -> None:
        """Write a sheet with a row per frame, worst first: prediction, truth, and their neighbours.

        Raises:
            ValueError: nothing was scored.
            OSError: it cannot be written.
        """
        if not self._frames:
            raise ValueError("there are no scored frames to show; choose a data set with targets.")
        rows = [_row(frame) for frame in self._frames]
        sheet = Image.new("RGB", (rows[0].width, sum(row.height for row in rows)), "white")
        top = 0
        for row in rows:
            sheet.paste(row, (0, top))
            top += row.height
        with written_whole(path) as partial:
            sheet.save(partial)


def _row(frame: _WorstFrame) -> Image.Image:
    """Draw one row: a line that names the frame, and five pictures with titles."""
    sample, sequence = frame.sample, frame.sequence
    before, after = (sequence.read(sequence.inputs[sample.window + shift]) for shift in (1, 2))
    number = round(sample.time * sequence.factor) - 1
    truth = sequence.read(sequence.targets[sample.window][number])
    # Differences of uint8 would wrap around below zero.
    off = np.abs(frame.prediction.astype(np.int16) - truth) * _AMPLIFY
    difference = np.minimum(off, 255).astype(np.uint8)
    titles = ("before", "prediction", "truth", "after", f"difference, {_AMPLIFY} times")
    pictures = (before, frame.prediction, truth, after, difference)
    height = round(_WIDTH * truth.shape[0] / truth.shape[1])
    row = Image.new("RGB", (_WIDTH * len(pictures), height + 2 * _LINE), "white")
    draw, font = ImageDraw.Draw(row), ImageFont.load_default(13)
    place = f"{sample.sequence}, window {sample.window}, t = {sample.time:g}"
    draw.text((4, 1), f"{place}: {frame.psnr:.2f} dB", "black", font)
    for column, (title, picture) in enumerate(zip(titles, pictures)):
        scaled = Image.fromarray(picture).resize((_WIDTH, height), Image.Resampling.LANCZOS)
        row.paste(scaled, (column * _WIDTH, 2 * _LINE))
        draw.text((column * _WIDTH + 4, _LINE + 1), title, "grey", font)
    return row


def _pixels(frame: np.ndarray) -> Picture:
    return np.rint(255 * np.clip(frame, 0.0, 1.0)).astype(np.uint8)
