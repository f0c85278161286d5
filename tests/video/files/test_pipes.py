# SPDX-License-Identifier: Apache-2.0
"""Video through standard input and output, as other programs are joined by a shell."""

from __future__ import annotations

import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from flavr_jax.video.files.reader import RawVideo, VideoReader

# Copies standard input to standard output; arguments are the codec and the size of raw pictures.
COPY = """
import sys
from pathlib import Path
from flavr_jax.video.files.encoders import Encoding
from flavr_jax.video.files.reader import RawVideo, open_source
from flavr_jax.video.files.sinks import open_sink
codec, size, pixel_format = sys.argv[1:]
source = open_source(Path("-"), raw=RawVideo(size, pixel_format) if size else None)
encoding = Encoding(codec)
with open_sink("-", source.info, source=Path("-"), encoding=encoding) as sink:
    for frame in source:
        sink.write(frame)
"""


def copied(content, codec="auto", size="", pixel_format="yuv420p"):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run(
        [sys.executable, "-c", COPY, codec, size, pixel_format],
        input=content, capture_output=True, env=environment, timeout=120, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p10le"])
def test_y4m_comes_out_as_it_went_in(ffmpeg, pix_fmt):
    y4m, _ = ffmpeg(
        "-f", "lavfi", "-i", "testsrc2=size=64x48:rate=24000/1001:duration=0.2", "-pix_fmt",
        pix_fmt, "-strict", "-1", "-f", "yuv4mpegpipe", "-",
    )  # fmt: skip
    done = copied(y4m)
    assert done.returncode == 0, done.stderr
    header, body = done.stdout.split(b"\n", 1)
    assert b"W64 H48 F24000:1001" in header
    assert body == y4m.split(b"\n", 1)[1]


def test_raw_pictures_come_out_as_they_went_in():
    pictures = np.random.default_rng(0).integers(16, 235, 3 * 64 * 48 * 3 // 2, np.uint8).tobytes()
    done = copied(pictures, "raw", "64x48")
    assert done.returncode == 0, done.stderr
    assert done.stdout == pictures


def test_what_is_no_video_is_an_error():
    done = copied(b"no video\n" * 40)
    assert done.returncode == 1
    assert b"ValueError: - is not a video" in done.stderr
    assert done.stdout == b""


def test_raw_files_are_read_with_their_size(tmp_path):
    path = tmp_path / "a.yuv"
    path.write_bytes(bytes([90]) * (2 * 64 * 48) * 3)
    source = VideoReader(path, raw=RawVideo("64x48", "yuv422p", Fraction(50)))
    frames = list(source)
    assert [frame.pts for frame in frames] == [0, Fraction(1, 50), Fraction(1, 25)]
    assert (source.info.width, source.info.height, source.info.pixel_format) == (64, 48, "yuv422p")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": "64"}, "write it such as 1920x1080"),
        ({"size": "6x4", "pixel_format": "yuv"}, "yuv"),
    ],
)
def test_nonsense_about_raw_pictures_is_an_error(options, message):
    with pytest.raises(ValueError, match=message):
        RawVideo(**options)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has pipes of several sizes")
def test_a_pipe_is_made_large_enough_for_its_reader_to_work_in_long_turns():
    import fcntl

    ours, theirs = os.pipe()
    try:
        before = fcntl.fcntl(ours, fcntl.F_GETPIPE_SZ)
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        command = [sys.executable, "-c", COPY, "raw", "64x48", "yuv420p"]
        pictures = bytes(64 * 48 * 3 // 2)
        subprocess.run(
            command, input=pictures, stdout=theirs, env=environment, timeout=120, check=True
        )
        assert fcntl.fcntl(ours, fcntl.F_GETPIPE_SZ) == 1 << 20 > before
        assert os.read(ours, 1 << 20) == pictures
    finally:
        os.close(ours)
        os.close(theirs)
