# SPDX-License-Identifier: Apache-2.0
"""Pictures that are stored turned stay so where a file can say it, and are turned elsewhere."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from flavr_jax.video.files.encoders import Encoding
from flavr_jax.video.files.reader import VideoReader, open_source

ONE = 1 << 16
# EXIF orientation → FFmpeg's display matrix, by what FFmpeg's own av_display_rotation_set and
# av_display_matrix_flip make of it.
TURNS = {2: (0, True, False), 3: (180, False, False), 6: (-90, False, False), 8: (90, False, False),
         5: (-90, True, False), 7: (90, True, False)}  # fmt: skip


def phone_video(path, orientation, size=(64, 48), pix_fmt="yuv420p"):
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1" if path.suffix == ".mkv" else "libx264", rate=24)
        stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
        if path.suffix != ".mkv":
            stream.options = {"qp": "0"}
        degrees, hflip, vflip = TURNS[orientation]
        stream.set_display_rotation(degrees, hflip=hflip, vflip=vflip)
        for index in range(2):
            frame = av.VideoFrame(*size, pix_fmt)
            for plane in frame.planes:
                samples = np.frombuffer(memoryview(plane), np.uint8)
                samples[:] = rng.integers(100, 150, samples.shape)
            frame.pts, frame.time_base = index, Fraction(1, 24)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def shown_by_ffmpeg(ffmpeg, path, size, pix_fmt="gray"):
    """The luma of the first frame as ffmpeg shows it: it turns by itself."""
    content, _ = ffmpeg("-i", path, "-frames:v", 1, "-f", "rawvideo", "-pix_fmt", "yuv420p", "-")
    width, height = size
    return np.frombuffer(content[: width * height], np.uint8).reshape(height, width)


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv", "a.webm"])
def test_the_matrix_is_kept_and_nothing_is_turned(pass_through, tmp_path, name):
    source = phone_video(tmp_path / "in.mp4", 6)
    codec = {"a.mkv": "ffv1", "a.webm": "vp9"}.get(name, "h264")
    pass_through(source, str(tmp_path / name), encoding=Encoding(codec, lossless=True))
    before, after = VideoReader(source), VideoReader(tmp_path / name)
    assert after.info.display_matrix == before.info.display_matrix is not None
    first, written = next(iter(before)).original, next(iter(after)).original
    np.testing.assert_array_equal(written.to_ndarray(), first.to_ndarray())


@pytest.mark.parametrize("orientation", TURNS)
def test_planes_are_turned_as_they_are_where_a_file_cannot_say_it(
    pass_through, ffmpeg, tmp_path, orientation
):
    source = phone_video(tmp_path / "in.mkv", orientation)
    pass_through(source, str(tmp_path / "a.avi"), encoding=Encoding("ffv1"))
    size = (48, 64) if orientation >= 5 else (64, 48)
    output = VideoReader(tmp_path / "a.avi")
    assert (output.info.width, output.info.height) == size
    written = next(iter(output)).original.to_ndarray()[: size[1]]
    np.testing.assert_array_equal(written, shown_by_ffmpeg(ffmpeg, source, size))


def test_images_are_upright(pass_through, tmp_path):
    source = phone_video(tmp_path / "in.mkv", 6)
    pass_through(source, f"{tmp_path}/out/", headroom=False)
    stored = next(iter(VideoReader(source))).pixels
    with Image.open(tmp_path / "out" / "frame_000001.png") as image:
        np.testing.assert_array_equal(np.asarray(image), np.rot90(stored, -1))


def test_the_shape_of_pixels_turns_along(make_clip, pass_through, tmp_path):
    source = phone_video(tmp_path / "in.mkv", 8)
    info = VideoReader(source).info
    assert info.pixel_aspect == 1
    pass_through(source, str(tmp_path / "a.avi"), encoding=Encoding("ffv1"))
    frames = list(open_source(tmp_path / "a.avi"))
    assert [frame.pixels.shape for frame in frames] == [(64, 48, 3)] * 3


def test_made_frames_are_turned_like_originals(pass_through, tmp_path):
    source = phone_video(tmp_path / "in.mkv", 6, pix_fmt="yuv422p")
    pass_through(source, str(tmp_path / "a.avi"), encoding=Encoding("ffv1"))
    first, made, last = (frame.original for frame in open_source(tmp_path / "a.avi"))
    assert first.format.name == "yuv440p"
    mean = (first.to_ndarray(format="yuv444p").astype(int) + last.to_ndarray(format="yuv444p")) / 2
    assert np.abs(made.to_ndarray(format="yuv444p")[0] - mean[0]).max() <= 2
