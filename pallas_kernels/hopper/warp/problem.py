# SPDX-License-Identifier: Apache-2.0
"""Compile-time parameters of a warp."""

from __future__ import annotations

import dataclasses

from pallas_kernels.hopper.image_tiles import ImageTiles

__all__ = ["FIELDS", "PAIR", "WarpProblem"]

FIELDS = 8
"""Values of a field: 3 colours, displacements (x, y) into the first and second image, a logit."""

PAIR = 6
"""Values of each further pair of displacements: relative to the first pair (4), two logits."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class WarpProblem:
    """Compile-time parameters of a launch.

    Attributes:
        batch: number of samples.
        outputs: output images of each sample.
        image_height: height of a source image.
        image_width: width of a source image.
        field_height: height of a field as stored.
        field_width: width of a field as stored.
        enlarged: how many times the fields are enlarged.
        height: height of an output image, in pixels of the enlarged fields.
        width: width of an output image.
        fold: ``fold × fold`` pixels lie next to each other in corrections, and in images for a
            convolution.
        middle: subtracted from the colours of images for a convolution.
        corrected: whether a correction is added to the enlarged fields.
        values: values of a field that count.
        kept: whether a map of pixels to keep is given.
        cubic: whether images are mixed from cubic look-ups instead of bilinear ones.
        rows: 2 if a thread should compute two pixels below each other where the fields allow it.
        interpret: whether the interpreter runs the kernel.
    """

    batch: int
    outputs: int
    image_height: int
    image_width: int
    field_height: int
    field_width: int
    enlarged: int
    height: int
    width: int
    fold: int
    middle: float = 0.0
    corrected: bool = False
    values: int = FIELDS
    kept: bool = False
    cubic: bool = False
    rows: int = 1
    interpret: bool

    @property
    def pixels(self) -> int:
        """Pixels of an output image."""
        return self.height * self.width

    @property
    def paired(self) -> bool:
        """True if a thread computes two pixels that lie between the same four of a field."""
        return self.rows == 2 and self.enlarged % 2 == 0 and not self._pairs.in_order

    @property
    def tiles(self) -> ImageTiles:
        """Tiles of an output image, or of its pairs of rows."""
        return self._pairs if self.paired else ImageTiles(self.height, self.width)

    @property
    def _pairs(self) -> ImageTiles:
        # The first and the last pair may have only one row inside the image.
        return ImageTiles(self.height // 2 + 1, self.width)

    @property
    def images(self) -> int:
        """Number of all output images."""
        return self.batch * self.outputs

    def name(self, kind: str) -> str:
        """Name in a profiler's trace."""
        return f"{kind}_{self.outputs}_at_{self.height}x{self.width}"
