# SPDX-License-Identifier: Apache-2.0
"""How interpolation is scored on a sequence: which frames are inputs, and which are to be met.

FLAVR's DAVIS protocol drops every second frame and asks for it again; its GoPro and Adobe240
protocols do the same with 3 of 4 or 7 of 8. All are one rule with another factor.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np

from flavr_jax.typing import Frames

__all__ = ["PROTOCOLS", "Protocol", "read_sequences"]


@dataclasses.dataclass(frozen=True)
class Protocol:
    """Every ``factor``-th frame is an input; those between the two middle inputs are targets.

    Attributes:
        name: for tables and command lines.
        pattern: which files of a folder it is meant for.
        factor: how many times the frame rate grows.
        crop: height and width cut from the centre; None keeps the whole frame.
    """

    name: str
    pattern: str
    factor: int
    crop: tuple[int, int] | None = None

    def starts(self, n_frames: int) -> range:
        """First input of each window of four: windows begin at every input that has three more."""
        return range(0, n_frames - 3 * self.factor, self.factor)

    def windows(self, frames: Frames) -> Iterator[tuple[Frames, Frames]]:
        """Four inputs and the ``factor`` − 1 targets of every window."""
        for start in self.starts(len(frames)):
            inputs = frames[start : start + 3 * self.factor + 1 : self.factor]
            yield inputs, frames[start + self.factor + 1 : start + 2 * self.factor]


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("davis-2x", "davis_*.mp4", 2, crop=(480, 840)),
        Protocol("fps60-2x", "fps60_*.mp4", 2),
        Protocol("fps60-4x", "fps60_*.mp4", 4),
        Protocol("fps60-8x", "fps60_*.mp4", 8),
    )
}


def read_sequences(folder: Path, protocol: Protocol) -> Iterator[tuple[str, Frames]]:
    """Name and cropped frames of each of a folder's sequences, in alphabetical order.

    Raises:
        FileNotFoundError: when no file matches the protocol's pattern.
        ValueError: when a sequence is smaller than the protocol's crop.
    """
    paths = sorted(folder.glob(protocol.pattern))
    if not paths:
        raise FileNotFoundError(
            f"{folder} holds no {protocol.pattern}, which protocol {protocol.name} is scored on."
        )
    for path in paths:
        with av.open(path) as container:
            frames = np.stack(
                [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
            )
        height, width = protocol.crop or frames.shape[1:3]
        top, left = (frames.shape[1] - height) // 2, (frames.shape[2] - width) // 2
        if top < 0 or left < 0:
            raise ValueError(
                f"{path} is {frames.shape[2]}×{frames.shape[1]}, but protocol {protocol.name} "
                f"crops {width}×{height}; use the sequences it was defined on."
            )
        yield path.stem, frames[:, top : top + height, left : left + width]
