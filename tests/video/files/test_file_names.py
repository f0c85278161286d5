# SPDX-License-Identifier: Apache-2.0
"""Every name is the name of a file, and what can be read only once is read only once."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pytest

from flavr_jax.video.files.names import is_pipe
from flavr_jax.video.files.reader import open_source
from flavr_jax.video.stills import exr
from flavr_jax.video.stills.images import ImageFolder

NAMES = ["12:30.mp4", "file:x.mp4", "concat:x.mp4", "http:x.mp4", "subfile,,a.mp4", "a%03d.mp4"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_never_a_protocol(make_clip, pass_through, tmp_path, monkeypatch, name):
    source = make_clip("a.mp4", audio="aac").rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)  # a name with a folder before it would never be ambiguous
    (tmp_path / "out").mkdir()
    for path in (Path(name), source):
        pass_through(path, f"out/{name}", stretch=1)
        assert len(list(open_source(Path("out") / name))) == 9
        (Path("out") / name).unlink()


def test_a_percent_sign_makes_no_sequence(make_clip, tmp_path):
    source = make_clip("a.gif", codec="gif", pix_fmt="rgb8").rename(tmp_path / "a%03d.gif")
    assert len(list(open_source(source))) == 5


def test_images_may_have_a_percent_sign_and_a_colon(tmp_path):
    (tmp_path / "in").mkdir()
    for index in range(2):
        pixels = exr.from_linear(_grey(index))
        exr.write(tmp_path / "in" / f"12:30_%03d_{index}.exr", exr.to_linear(pixels))
    assert len(list(ImageFolder(tmp_path / "in"))) == 2


def _grey(index):
    return np.full((16, 16, 3), 0.1 + 0.1 * index, np.float32)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_named_pipe_is_read_once(make_clip, pass_through, tmp_path, caplog):
    content = make_clip("a.mkv", audio="aac").read_bytes()
    pipe = tmp_path / "pipe.mkv"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(content,), daemon=True)
    writer.start()
    pass_through(pipe, str(tmp_path / "b.mp4"))
    writer.join(10)
    assert not writer.is_alive()
    assert len(list(open_source(tmp_path / "b.mp4"))) == 9
    assert "Only pictures are read from a pipe" in caplog.text


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="no devices here")
@pytest.mark.parametrize("name", ["/dev/zero", "/dev/null"])
def test_a_device_that_is_no_video_is_an_error(name):
    assert is_pipe(Path(name))
    with pytest.raises(ValueError, match="is not a video"):
        open_source(Path(name))


def test_only_what_is_no_file_is_a_pipe(make_clip, tmp_path):
    assert is_pipe(Path("-"))
    assert not is_pipe(make_clip())
    assert not is_pipe(tmp_path)
    assert not is_pipe(tmp_path / "missing.mp4")
