# SPDX-License-Identifier: Apache-2.0
"""Originals stay in step with the frames made from them."""

from __future__ import annotations

import dataclasses
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from flavr_jax.video.frames import ClipInfo, TimedFrame
from flavr_jax.video.side_by_side import beside, beside_info, shrunk, shrunk_info, write_sheet


@dataclasses.dataclass
class Clip:
    """Frames of one level each, at given times."""

    times: list
    first: int = 0
    kind: type = np.uint8
    channels: int = 3
    damage: str | None = None
    info: ClipInfo = dataclasses.field(
        default_factory=lambda: ClipInfo(40, 30, Fraction(10), Fraction(1, 10))
    )

    def __iter__(self):
        for number, pts in enumerate(self.times, self.first):
            level = number * (257 if self.kind == np.uint16 else 1)
            pixels = np.full((30, 40, self.channels), level, self.kind)
            yield TimedFrame(pixels, Fraction(pts), Fraction(1, 10))


@pytest.mark.parametrize("stretch", [1, 4])
def test_the_left_side_holds_the_original_of_that_time(stretch):
    times = [Fraction(n, 4) for n in range(9)]
    source = Clip([0, Fraction(1, 2), 2], first=100)
    output = Clip([stretch * time for time in times])
    pairs = list(beside(source, output, stretch=Fraction(stretch)))
    assert [int(pair.pixels[0, 0, 0]) for pair in pairs] == [100] * 2 + [101] * 6 + [102]
    assert [int(pair.pixels[0, 40, 0]) for pair in pairs] == list(range(9))
    assert [pair.pts for pair in pairs] == [stretch * time for time in times]
    info = beside_info(source.info)
    assert pairs[0].pixels.shape == (info.height, info.width, 3) == (30, 80, 3)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((np.uint8, 3), (np.uint16, 4)),
        ((np.uint16, 4), (np.uint8, 3)),
        ((np.uint8, 3), (np.uint8, 4)),
    ],
)
def test_depth_and_alpha_follow_the_output(before, after):
    source, output = Clip([0], 200, *before), Clip([0], 200, *after)
    (pair,) = beside(source, output)
    assert pair.pixels.dtype == after[0]
    assert pair.pixels.shape[-1] == after[1]
    np.testing.assert_array_equal(pair.pixels[:, :40, :3], pair.pixels[:, 40:, :3])


@pytest.mark.parametrize("count", [1, 5, 40])
def test_a_sheet_has_frames_from_the_first_to_the_last(tmp_path, count):
    output = Clip(list(range(count)), kind=np.uint16)
    write_sheet(tmp_path / "sheet.png", output)
    pixels = np.asarray(Image.open(tmp_path / "sheet.png"))
    shown = min(count, 16)
    height = 240 + 18
    assert pixels.shape == (-(-shown // 4) * height, 4 * 320, 3)
    last = shown - 1
    assert pixels[100, 100, 0] == 0
    assert pixels[last // 4 * height + 100, last % 4 * 320 + 100, 0] == count - 1


QUARTER_TURN = (0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)


def test_both_sides_are_upright():
    turned = ClipInfo(40, 30, Fraction(10), Fraction(1, 10), display_matrix=QUARTER_TURN)
    (pair,) = beside(Clip([0], 10, info=turned), Clip([0], 20, info=turned))
    info = beside_info(turned)
    assert (info.width, info.height, info.display_matrix) == (60, 40, None)
    assert pair.pixels.shape == (40, 60, 3)
    assert (pair.pixels[:, :30] == 10).all()
    assert (pair.pixels[:, 30:] == 20).all()


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_pairs_for_browsers_are_means_of_blocks_with_8_bits_and_an_even_height(kind):
    scale = 257 if kind == np.uint16 else 1
    side = np.arange(10 * 7, dtype=kind).reshape(10, 7, 1).repeat(3, axis=2) * scale
    pair = TimedFrame(np.concatenate([side, side[::-1]], axis=1), Fraction(0), Fraction(1, 10))
    (small,) = shrunk([pair], 3)
    info = shrunk_info(ClipInfo(14, 10, Fraction(10), Fraction(1, 10)), 3)
    assert small.pixels.shape == (info.height, info.width, 3) == (4, 4, 3)
    assert small.pixels.dtype == np.uint8
    # The middle of the first block of 3 × 3 is its mean; rows differ by 7, columns by 1.
    assert small.pixels[:3, :2, 0].tolist() == [[8, 11], [29, 32], [50, 53]]
    assert small.pixels[0, 2:, 0].tolist() == [63 - 7 + 1, 63 - 7 + 4]
    assert (small.pixels[3] == small.pixels[2]).all()
