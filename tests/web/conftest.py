# SPDX-License-Identifier: Apache-2.0
import sys
from fractions import Fraction

import numpy as np
import pytest

from flavr_jax.video.files.writer import VideoWriter
from flavr_jax.video.frames import ClipInfo, TimedFrame

# Behaves like `flavr interpolate --json`, as the first bytes of the upload say.
ENGINE = """
import json, os, pathlib, sys, time

upload, _, output = sys.argv[1:4]
kind = pathlib.Path(upload).read_text(errors="replace").split("\\n")[0]
folder = pathlib.Path(output).parent
(folder.parent / "pid").write_text(str(os.getpid()))
(folder.parent / "secret").write_text(os.environ.get("FLAVR_PASSWORD", "none"))

def tell(event, **values):
    print(json.dumps({"event": event, **values}), flush=True)

print("no event", flush=True)
tell("start", input="/server/clip", output="/server/result", frames=17, device="test")
tell("progress", done=5, total=17, per_second=2.0, seconds_left=6.0)
if kind == "wait":
    time.sleep(60)
if kind == "crash":
    os.kill(os.getpid(), 9)
if kind == "fail":
    tell("error", message=upload + " is bad; see " + str(folder / "x.mp4"), code=2)
    sys.exit(2)
tell("warning", message=upload + " is odd")
tell("stage", what="report")
report = folder / "made_report.html"
report.write_text("<h1>report</h1>")
tell("weakest", moments=[{"time": 0.5, "shot": 0, "scores": {"PSNR": 21.0}}])
tell("file", what="report", path=str(report))
pathlib.Path(output).write_bytes(bytes(range(256)))
tell("end", frames_in=3, frames_out=17, cuts=1, cut_times=[1.5], repeats=0, seconds=2.0, code=0)
"""


@pytest.fixture
def engine(tmp_path):
    """Command of a program that behaves like ``flavr interpolate`` without computing."""
    program = tmp_path / "engine.py"
    program.write_text(ENGINE)
    return [sys.executable, str(program)]


@pytest.fixture(scope="session")
def write_clip():
    """Writes a video of moving waves, with a cut if asked for; returns its path."""

    def write(path, count=10, size=(32, 24), cut=None):
        info = ClipInfo(*size, Fraction(10), Fraction(1, 10))
        x, y = np.arange(size[0])[None, :, None], np.arange(size[1])[:, None, None]
        phases = np.array([0.0, 2.0, 4.0])
        with VideoWriter(path, info) as sink:
            for number in range(count):
                wave = np.sin((x - 3 * number) / 5 + y / 7 + phases)
                if cut is not None and number >= cut:
                    wave = np.sign(np.sin(x / 2 - y / 3 + number / 9 - phases))
                pixels = (127 + 90 * wave).astype(np.uint8)
                sink.write(TimedFrame(pixels, Fraction(number, 10), Fraction(1, 10)))
        return path

    return write
