# SPDX-License-Identifier: Apache-2.0
"""Runs as processes of their own: killed, stopped, out of disk space, in a pipe.

Most make 8 times as many frames of the same size, so that one of them compiles the network.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from flavr_jax.video.files.reader import VideoReader
from tests.commands.clips import write_clip, write_tone

SCRIPT = Path(__file__).parents[2] / "scripts" / "interpolate.py"


def start(network, folder, *arguments, through=()):
    """The program in a process of its own."""
    return subprocess.Popen(
        [*through, sys.executable, SCRIPT, *map(str, arguments), "--checkpoint", network],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def wait_for(folder, pattern, process):
    deadline = time.monotonic() + 120
    while not any(folder.glob(pattern)) and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


RESUMED = ("in.mp4", "out.mp4", "--factor", 8, "--segment", 50)


def test_a_run_that_was_killed_goes_on_and_gives_the_same_file(
    network, interpolate, tmp_path, capsys
):
    write_clip(tmp_path / "in.mp4", 60, others=write_tone(tmp_path / "tone.wav"))
    process = start(network, tmp_path, *RESUMED)
    wait_for(tmp_path, "out.partial-*/000001.segment", process)
    process.kill()
    process.communicate(timeout=60)
    kept = 50 * len(list(tmp_path.glob("out.partial-*/*.segment")))
    assert interpolate(*RESUMED) == 0
    output = capsys.readouterr().out
    assert f"going on after frame {kept}, which an earlier run finished" in output
    assert {path.name for path in tmp_path.iterdir()} == {"in.mp4", "out.mp4", "tone.wav"}
    resumed = (tmp_path / "out.mp4").read_bytes()
    assert interpolate(*RESUMED, "--overwrite") == 0
    assert "going on" not in capsys.readouterr().out
    assert (tmp_path / "out.mp4").read_bytes() == resumed


def test_a_run_that_was_interrupted_tells_what_is_kept(network, tmp_path):
    write_clip(tmp_path / "in.mp4", 200)
    process = start(network, tmp_path, *RESUMED)
    wait_for(tmp_path, "out.partial-*/000001.segment", process)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143
    (journal,) = tmp_path.glob("out.partial-*")
    kept = 50 * len(list(journal.glob("*.segment")))
    rest = f"{kept} frames are finished and kept; the same command goes on there."
    assert errors.splitlines()[-1] == f"interrupted. {rest}"


def test_a_full_disk_is_one_line_and_the_work_is_kept(network, tmp_path):
    write_clip(tmp_path / "in.mp4", 60, size=(96, 64))
    limited = ("bash", "-c", 'ulimit -f 20; trap "" XFSZ; exec "$@"', "-")  # 20 KiB a file
    process = start(network, tmp_path, *RESUMED, "--crf", 10, through=limited)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    lines = [line for line in errors.splitlines() if "error" in line.lower()]
    assert len(lines) == 1
    full, rest = lines[0].split(": File too large. ")
    assert full.startswith(f"error: {tmp_path}/out.partial-")
    assert re.fullmatch("[1-9]\\d*0 frames are finished and kept; the same command .*", rest)
    (journal,) = (path for path in tmp_path.glob("out.partial-*"))
    assert journal.is_dir()


def test_a_pipe_carries_nothing_but_pictures(network, tmp_path):
    write_clip(tmp_path / "in.y4m", 3)
    done = subprocess.run(
        [sys.executable, SCRIPT, "-", "--factor", "8", "--checkpoint", network],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=(tmp_path / "in.y4m").open("rb"),
        capture_output=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    (tmp_path / "out.y4m").write_bytes(done.stdout)
    originals = [frame.original.to_ndarray() for frame in VideoReader(tmp_path / "in.y4m")]
    written = [frame.original.to_ndarray() for frame in VideoReader(tmp_path / "out.y4m")]
    assert len(written) == 17
    np.testing.assert_array_equal(written[::8], originals)
    assert done.stdout.startswith(b"YUV4MPEG2 W32 H24")
    assert b"3 frames" in done.stderr


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_that_is_stopped_leaves_no_file(network, tmp_path, sent, code):
    write_clip(tmp_path / "in.mp4", 600)
    process = subprocess.Popen(
        [sys.executable, SCRIPT, "in.mp4", "--factor", "8", "--checkpoint", network],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not any(tmp_path.glob("in_8x.partial-*.mp4")) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(sent)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == code, errors
    assert errors.splitlines()[-1] == "interrupted."
    assert [entry.name for entry in tmp_path.iterdir()] == ["in.mp4"]
