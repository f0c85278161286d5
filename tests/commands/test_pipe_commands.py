# SPDX-License-Identifier: Apache-2.0
"""The commands of docs/running.md that join flavr with FFmpeg and mpv."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import imageio_ffmpeg
import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/running.md").read_text()
BLOCK = re.search(r"^## Pipes$.*?^```bash\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)[1]
PLAYED, DENOISED, WITH_SOUND = BLOCK.splitlines()
FRAMES = 6


@pytest.fixture
def run(tmp_path, tiny_2x):
    """Runs a line in a folder with clip.mp4, whose sound lasts as long as its pictures."""
    programs = {
        "flavr": f'{shlex.join([sys.executable, "-m", "flavr_jax"])} "$@" --checkpoint {tiny_2x}',
        "ffmpeg": f'{shlex.quote(imageio_ffmpeg.get_ffmpeg_exe())} "$@"',
        # Stores every frame that it would show.
        "mpv": f'{shutil.which("mpv")} --untimed --vo=image --vo-image-outdir=shown "$@"',
    }
    folder = tmp_path / "programs"
    folder.mkdir()
    for name, command in programs.items():
        (folder / name).write_text(f"#!/bin/sh\nexec {command}\n")
        (folder / name).chmod(0o755)
    with av.open(str(tmp_path / "clip.mp4"), "w") as container:
        video = container.add_stream("libx264", rate=24)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        sound = container.add_stream("aac", rate=8000, layout="mono")
        for number in range(FRAMES):
            picture = np.full((48, 64, 3), 40 * number, np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture)))
        tone = av.AudioFrame.from_ndarray(np.zeros((1, 2000), np.float32), "fltp", "mono")
        tone.sample_rate = 8000
        for stream, last in ((sound, tone), (video, None), (sound, None)):
            container.mux(stream.encode(last))

    def run(line):
        environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
        bash = ["bash", "-o", "pipefail", "-c", line]
        done = subprocess.run(
            bash, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return tmp_path

    return run


def streams_of(path):
    with av.open(str(path)) as container:
        count = sum(1 for _ in container.decode(video=0))
        return count, container.streams.video[0].average_rate, len(container.streams.audio)


def test_mpv_shows_every_frame(run):
    if shutil.which("mpv") is None and os.environ.get("FLAVR_REQUIRE_PROGRAMS") != "1":
        pytest.skip("needs mpv (apt-get install mpv)")
    assert len(list((run(PLAYED) / "shown").iterdir())) == (FRAMES - 1) * 2 + 1


def test_ffmpeg_filters_before_and_encodes_after(run):
    count, rate, _ = streams_of(run(DENOISED) / "denoised.mp4")
    assert (count, rate) == ((FRAMES - 1) * 2 + 1, 48)


def test_ffmpeg_adds_the_sound_of_the_input(run):
    count, rate, sounds = streams_of(run(WITH_SOUND) / "with_sound.mp4")
    assert (count, rate, sounds) == (round(FRAMES * Fraction(60, 24)), 60, 1)
