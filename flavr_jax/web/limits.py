# SPDX-License-Identifier: Apache-2.0
"""Limits of a server, and the checks of an upload against them.

The first bytes of a file decide whether FFmpeg gets to see it: playlists, which name other files,
are refused. What the file says about itself is read in the sandbox.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

__all__ = ["HEAD", "Limits", "Refused", "check_kind", "check_video"]

HEAD = 377
"""Bytes from the start of a file that tell its kind: two packets of MPEG-TS."""


class Refused(ValueError):
    """An upload or a choice that the server does not take.

    Attributes:
        status: the HTTP status of the answer.
    """

    def __init__(self, message: str, status: int = 422) -> None:
        super().__init__(message)
        self.status = status


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits of a server.

    Attributes:
        upload_mb: largest upload in megabytes (10⁶ bytes).
        seconds: longest clip in seconds.
        megapixels: largest frame in millions of pixels; 3840×2160 has 8.3.
        clips: most clips that wait, run or are kept at a time.
        hours: longest time that a run may take.
        keep_hours: time after which a finished clip is deleted.
    """

    upload_mb: float = 500.0
    seconds: float = 120.0
    megapixels: float = 8.3
    clips: int = 20
    hours: float = 6.0
    keep_hours: float = 1.0

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if not value > 0:
                raise ValueError(f"`{name}` is {value}; it must be more than 0.")

    @property
    def upload_bytes(self) -> int:
        """Most bytes of an upload."""
        return int(self.upload_mb * 1e6)

    def check_size(self, size: int) -> None:
        """Raise an error if an upload of so many bytes is too large."""
        if size > self.upload_bytes:
            raise Refused(
                f"The file is larger than {self.upload_mb:g} MB, the limit of this server. Cut "
                "the clip, or compress it more.",
                413,
            )


def check_kind(head: bytes) -> None:
    """Raise an error unless a file begins as videos do that hold all of their data themselves."""
    if not (
        head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")  # MP4, MOV, 3GP
        or head[:4] in (b"\x1aE\xdf\xa3", b"\x00\x00\x01\xba", b"OggS", b"GIF8", b"FLV\x01")
        or head[:8] in (b"0&\xb2u\x8ef\xcf\x11", b"YUV4MPEG")  # WMV; Y4M
        or (head[:4] == b"RIFF" and head[8:12] in (b"AVI ", b"WEBP"))
        # A packet of MPEG-TS has 188 bytes and begins with G; cameras put 4 bytes before it.
        or (head[:1] == head[188:189] == head[376:377] == b"G")  # MPEG-TS
        or (head[4:5] == head[196:197] == b"G")  # MPEG-TS of cameras, with time stamps
    ):
        raise Refused(
            "The file is not a video of a known kind. Use MP4, MOV, MKV, WebM, AVI, WMV, MPEG, "
            "Ogg, GIF, WebP or Y4M.",
            415,
        )


def check_video(
    path: Path, name: str, limits: Limits, *, sandbox: bool, codec: str = "h264"
) -> list[str]:
    """Read what a file says about itself, and compare it with the limits.

    Args:
        path: the file.
        name: what its owner calls it, for messages.
        limits: of the server.
        sandbox: whether to read it in a child process with few rights.
        codec: how the result will be stored.

    Returns:
        What its owner should know before the run.

    Raises:
        Refused: it is no video that can be read, or it exceeds a limit.
    """
    # Only now, because the page has to answer before JAX is imported.
    from flavr_jax.reading.inputs import Input
    from flavr_jax.reading.parent import ChildSource
    from flavr_jax.video.pixels.layout import Layout

    try:
        # A second beyond the limit, so that a longer clip is still told from one that fits.
        source = Input(sandbox=sandbox, range=f"0-{limits.seconds + 1:f}").open(path)
    except (ValueError, OSError) as error:
        raise Refused(str(error).replace(str(path), name)) from error
    if isinstance(source, ChildSource):
        source.close()
    info = source.info
    if info.width * info.height > limits.megapixels * 1e6:
        raise Refused(
            f"{name} has frames of {info.width}×{info.height} pixels; this server takes up to "
            f"{limits.megapixels:g} million pixels. Make the video smaller first."
        )
    warnings = []
    layout = Layout.of(info.pixel_format)
    if codec == "h264" and (layout.bits > 8 or (layout.kind == "yuv" and layout.chroma != (1, 1))):
        warnings.append(
            f"The clip has the pixel format {info.pixel_format}, which few players show in H.264. "
            "HEVC, AV1 and the comparison play in more of them."
        )
    if info.frame_count is None:
        warnings.append(
            f"The file does not state its duration. Up to {limits.seconds:g} s of it are used."
        )
    elif float(info.frame_count / info.rate) > limits.seconds:
        raise Refused(
            f"{name} is longer than {limits.seconds:g} s, the limit of this server. Cut it first."
        )
    return warnings
