# SPDX-License-Identifier: Apache-2.0
"""Scene-linear OpenEXR images, and the 16-bit RGB that a network receives for them.

Linear light has no upper limit, but RGB has. ACEScct (Academy S-2016-001), a curve made for
grading, converts between the two: it reaches 222 times white, with steps far finer than those of
16-bit floats.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.error import FFmpegError
from av.video.codeccontext import VideoCodecContext
from jaxtyping import Float

from flavr_jax.typing import Frame
from flavr_jax.video.files.names import ONE_FILE, file_url

__all__ = ["displayed", "encoded", "from_linear", "linear_of_display", "read", "to_linear", "write"]

# The linear part of the curve, below _CUT; S-2016-001, section 4.4.
_CUT, _SLOPE, _OFFSET = 0.0078125, 10.5402377416545, 0.0729055341958355
_CODES = np.arange(65536) / 65535
# Linear light of each 16-bit code: a look-up is faster than computing the power.
_LIGHT = np.where(
    _CODES > _SLOPE * _CUT + _OFFSET, 2 ** (_CODES * 17.52 - 9.72), (_CODES - _OFFSET) / _SLOPE
).astype(np.float32)


def from_linear(light: Float[np.ndarray, "height width channel"]) -> Frame:
    """Convert linear light to ACEScct in uint16; alpha, a fourth channel, stays linear."""
    light = light.astype(np.float32)
    # np.where computes both branches everywhere, and there is no log2 of 0 and below.
    curve = (np.log2(np.maximum(light, _CUT)) + 9.72) / 17.52
    coded = np.where(light > _CUT, curve, _SLOPE * light + _OFFSET)
    coded[..., 3:] = light[..., 3:]
    return np.rint(np.clip(coded, 0, 1) * 65535).astype(np.uint16)


def to_linear(pixels: Frame) -> Float[np.ndarray, "height width channel"]:
    """Convert ACEScct to linear light in float32, the inverse of ``from_linear``."""
    light = _LIGHT[pixels]
    light[..., 3:] = pixels[..., 3:] / np.float32(65535)
    return light


def displayed(pixels: Frame) -> Frame:
    """Convert ACEScct pixels to sRGB in uint16, clipped at white."""
    light = np.clip(to_linear(pixels), 0, 1)
    shown = np.where(light > 0.0031308, 1.055 * light ** (1 / 2.4) - 0.055, 12.92 * light)
    shown[..., 3:] = light[..., 3:]
    return np.rint(shown * 65535).astype(np.uint16)


def linear_of_display(pixels: Frame) -> Float[np.ndarray, "height width channel"]:
    """Convert sRGB pixels of any depth to linear light."""
    coded = pixels.astype(np.float32) / np.iinfo(pixels.dtype).max
    light = np.where(coded > 0.04045, ((coded + 0.055) / 1.055) ** 2.4, coded / 12.92)
    light[..., 3:] = coded[..., 3:]
    return light


def read(path: Path) -> Float[np.ndarray, "height width channel"]:
    """Read an image as linear light with 3 or 4 channels.

    Raises:
        OSError: the file is missing or cannot be read.
        ValueError: it is not an EXR that FFmpeg reads.
    """
    try:
        with av.open(file_url(path), options=ONE_FILE) as container:
            frame = next(container.decode(video=0))
    except (FFmpegError, StopIteration) as error:
        if isinstance(error, OSError):
            raise
        raise ValueError(f"{path} cannot be read as an image: {error}.") from error
    # The planes are read directly, because swscale would clip at white.
    kind = np.dtype("<f2") if frame.format.name.endswith("f16le") else np.dtype("<f4")
    planes = [
        np.frombuffer(memoryview(plane), kind).reshape(plane.height, -1)[:, : plane.width]
        for plane in frame.planes
    ]
    # By number of planes: grey, grey with alpha, and FFmpeg's order green, blue, red, alpha.
    order = {1: [0, 0, 0], 2: [0, 0, 0, 1], 3: [2, 0, 1], 4: [2, 0, 1, 3]}[len(planes)]
    return np.stack([planes[index] for index in order], axis=-1).astype(np.float32)


def write(path: Path, light: Float[np.ndarray, "height width channel"]) -> None:
    """Write linear light as 16-bit floats."""
    form = "gbrapf32le" if light.shape[2] == 4 else "gbrpf32le"
    # Round here: FFmpeg truncates the mantissa to 16-bit floats.
    halves = light.astype(np.float16).astype(np.float32)
    frame = av.VideoFrame.from_ndarray(halves, form)
    path.write_bytes(encoded("exr", frame, {"format": "half", "compression": "zip16"}))


def encoded(codec: str, frame: av.VideoFrame, options: dict[str, str]) -> bytes:
    """Encode a picture with one of FFmpeg's image encoders, and return the file's content.

    Args:
        codec: FFmpeg's name of the encoder, such as ``png``.
        frame: in a pixel format that the encoder takes.
        options: of the encoder.
    """
    context = cast(VideoCodecContext, av.CodecContext.create(codec, "w"))
    context.width, context.height, context.pix_fmt = frame.width, frame.height, frame.format.name
    context.framerate = context.time_base = Fraction(1)
    context.options = options
    return b"".join(bytes(packet) for part in (frame, None) for packet in context.encode(part))
