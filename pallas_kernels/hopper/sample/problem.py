# SPDX-License-Identifier: Apache-2.0
"""Compile-time parameters of a look-up."""

from __future__ import annotations

import dataclasses

from pallas_kernels.hopper.image_tiles import ImageTiles

__all__ = ["CHANNELS", "SampleProblem"]

CHANNELS = 4
"""Channels of stored images, which are padded: a pixel is then a single load of 16 bytes."""

_BLOCKS_PER_SM = 8  # enough blocks of 128 threads to hide the latency of loads


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleProblem:
    """Compile-time parameters of a launch.

    Attributes:
        batch: number of samples.
        outputs: output images of each sample.
        sources: source images of each sample.
        image_height: height of a source image.
        image_width: width of a source image.
        height: height of an output image.
        width: width of an output image.
        channels: channels of an image, at most :data:`CHANNELS`.
        sm_count: number of SMs of the GPU.
        interpret: whether the interpreter runs the kernel.
    """

    batch: int
    outputs: int
    sources: int
    image_height: int
    image_width: int
    height: int
    width: int
    channels: int
    sm_count: int
    interpret: bool

    @property
    def pixels(self) -> int:
        """Pixels of an output image, which is padded to a tile if it is smaller than that."""
        return self.tiles.pixels

    @property
    def tiles(self) -> ImageTiles:
        """Tiles of an output image."""
        return ImageTiles(self.height, self.width)

    @property
    def outputs_per_block(self) -> int:
        """Output images that a thread block computes one after the other at the same pixels.

        All of them look up nearby pixels, which then come from the L1 cache. If that would leave
        SMs idle, each block computes one.
        """
        blocks = self.batch * self.tiles.count
        return self.outputs if blocks >= _BLOCKS_PER_SM * self.sm_count else 1

    @property
    def blocks(self) -> int:
        """Number of thread blocks."""
        return self.batch * self.tiles.count * (self.outputs // self.outputs_per_block)

    def name(self, kind: str) -> str:
        """Name in a profiler's trace."""
        return f"{kind}_{self.sources}_to_{self.outputs}_at_{self.height}x{self.width}"
