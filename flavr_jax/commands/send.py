# SPDX-License-Identifier: Apache-2.0
"""Send one frame in K of a clip: ``flavr send clip.mp4 rtp://192.0.2.1:5000 --drop 2``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

from tyro.conf import OmitArgPrefixes, Positional

from flavr_jax import cli
from flavr_jax.bandwidth import sender
from flavr_jax.bandwidth.sender import Sending
from flavr_jax.video.files import reader


@dataclasses.dataclass(frozen=True)
class Options:
    """Send one frame in K of a clip; ``flavr receive`` restores the others."""

    source: Positional[Path]
    """Video file, folder of images, or - for a pipe."""
    target: Positional[str]
    """A file (.ts, .mkv or .mp4), rtp://HOST:PORT, udp://HOST:PORT, or srt://HOST:PORT if FFmpeg
    has SRT. A network gets each frame when its time has come."""
    sending: Annotated[Sending, OmitArgPrefixes] = dataclasses.field(default_factory=Sending)
    """Frames to send, and their encoding."""
    overwrite: bool = False
    """Replace the target if it is a file that exists."""


def main(options: Options) -> None:
    """Send a clip."""
    source = reader.open_source(options.source)
    frames = cli.track(source, source.info.frame_count)
    sent = sender.send(
        frames, source.info, options.target, options.sending, overwrite=options.overwrite
    )
    print(f"{sent} to {options.target}")
