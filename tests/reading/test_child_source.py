# SPDX-License-Identifier: Apache-2.0
"""A child process without limits yields what the parent would, and ends with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from flavr_jax.bundled import SAMPLE
from flavr_jax.inference.pipeline import Pipeline
from flavr_jax.reading import inputs, parent
from flavr_jax.reading.inputs import Input
from flavr_jax.reading.parent import ChildSource
from flavr_jax.timeline import keys
from flavr_jax.video.files.reader import open_source

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX system")


def two_shots(path, pixel_format="yuv420p", size=(82, 50), codec="ffv1", options=None):
    """Write a film that cuts to another scene at frame 10, and shows each picture twice."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = *size, pixel_format
        scenes = [np.random.default_rng(n).integers(0, 256, (7, 60, 3), np.uint8) for n in (1, 2)]
        for number in range(20):
            scene = scenes[number // 10].repeat(8, 0).repeat(8, 1)
            moved = np.roll(scene, number // 2 * 2, axis=1)[: size[1], : size[0]]
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(moved), "rgb24")
            container.mux(stream.encode(picture.reformat(format=pixel_format)))
        container.mux(stream.encode(None))
    return path


def in_child(path, source=None):
    source = source or Input()
    return ChildSource(path, source, info=source.open(path).info)


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuva444p16le", "bgr0"])
def test_frames_and_originals_are_those_of_the_plain_source(tmp_path, pixel_format):
    path = two_shots(tmp_path / "a.mkv", pixel_format)
    # The child has written later frames over the places of the first ones, and has ended.
    frames = list(in_child(path))
    for one, other in zip(frames, Input().open(path), strict=True):
        np.testing.assert_array_equal(one.pixels, other.pixels)
        assert (one.pts, one.duration) == (other.pts, other.duration)
        assert one.original.format.name == other.original.format.name
        assert one.original.opaque == other.original.opaque
        for mine, theirs in zip(one.original.planes, other.original.planes, strict=True):
            used = mine.width * (2 if "1" in pixel_format else 1)
            rows = [
                np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, -1)[:, :used]
                for plane in (mine, theirs)
            ]
            np.testing.assert_array_equal(*rows)


def test_chroma_may_change_within_a_clip(tmp_path):
    parts = [
        two_shots(tmp_path / f"{form}.ts", form, codec="libx264", options={"bf": "0"}).read_bytes()
        for form in ("yuv420p", "yuv444p")
    ]
    path = tmp_path / "joined.ts"
    path.write_bytes(b"".join(parts))
    frames, plain = list(in_child(path)), list(Input().open(path))
    formats = [frame.original.format.name for frame in plain]
    assert set(formats) == {"yuv420p", "yuv444p"}
    assert [frame.original.format.name for frame in frames] == formats
    np.testing.assert_array_equal(frames[-1].pixels, plain[-1].pixels)


@pytest.mark.parametrize("repeats", [False, True])
def test_keys_are_those_of_the_plain_source(tmp_path, repeats):
    path = two_shots(tmp_path / "a.mkv")
    sources = in_child(path), Input().open(path)
    mine, theirs = (list(keys.find_keys(each, cuts=True, repeats=repeats)) for each in sources)
    assert [key.link for key in mine].count("cut") == 2
    assert len(mine) < 20 if repeats else len(mine) == 20
    for one, other in zip(mine, theirs, strict=True):
        assert (one.link, one.time, one.shown) == (other.link, other.time, other.shown)
        np.testing.assert_array_equal(one.frame.pixels, other.frame.pixels)


def test_image_files_can_be_copied_to_the_output(tmp_path):
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (20, 30, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    found = [frame.original.opaque.path for frame in in_child(tmp_path)]
    assert found == [tmp_path.resolve() / f"{number}.png" for number in range(3)]


def test_damage_and_a_range_pass_through(tmp_path):
    path = tmp_path / "in.mp4"
    path.write_bytes(SAMPLE.read_bytes()[:-2000])
    plain, source = Input(range="1-"), in_child(path, Input(range="1-"))
    opened = plain.open(path)
    assert [frame.pts for frame in source] == [frame.pts for frame in opened]
    assert source.damage == opened.damage is not None


def test_warnings_of_opening_are_not_repeated(tmp_path, caplog):
    path = two_shots(
        tmp_path / "a.mkv", size=(80, 48), codec="libx264", options={"x264-params": "tff=1"}
    )
    list(in_child(path))
    assert len(caplog.messages) == 1
    assert "interlaced" in caplog.messages[0]


def test_a_child_that_is_killed_ends_the_run_and_not_the_clip(tmp_path):
    # A sandbox finishes what it has; here, the machine may have had too little memory.
    source = in_child(two_shots(tmp_path / "a.mkv"))
    frames = iter(source)
    next(frames)
    os.kill(source_child(frames).pid, signal.SIGKILL)
    with pytest.raises(OSError, match=r"ended by SIGKILL. Run the same command again"):
        list(frames)


def source_child(frames):
    """Return the process behind an iteration."""
    while "child" not in frames.gi_frame.f_locals:
        frames = frames.gi_frame.f_locals[".0"]
    return frames.gi_frame.f_locals["child"]._process


def test_the_child_of_a_source_that_is_not_needed_ends(tmp_path):
    source = in_child(two_shots(tmp_path / "a.mkv"))
    assert source._child is not None
    process = source._child._process
    assert process.poll() is None
    del source
    assert process.returncode is not None


def test_a_file_that_has_changed_is_noticed(tmp_path):
    path = two_shots(tmp_path / "a.mkv")
    info = Input().open(path).info
    two_shots(path, size=(66, 50))
    with pytest.raises(ValueError, match="has changed since it was opened"):
        list(ChildSource(path, Input(), info=info))


def test_a_file_that_is_gone_is_named(tmp_path):
    path = two_shots(tmp_path / "a.mkv")
    info = Input().open(path).info
    path.unlink()
    with pytest.raises(OSError, match=r"a\.mkv"):
        list(ChildSource(path, Input(), info=info))


def test_a_stalled_child_is_named_by_the_watchdog(tmp_path, monkeypatch):
    monkeypatch.setattr(parent, "PROGRAM", ("-c", "import time; time.sleep(3)"))
    source = in_child(two_shots(tmp_path / "a.mkv"))
    with Pipeline() as pipeline:
        found = pipeline.stage(
            "decode", keys.find_keys(source, cuts=True, repeats=False), limit=1.0
        )
        with pytest.raises(TimeoutError, match="The stage decode has worked on item 1"):
            list(found)


KILLED = """
import sys
from pathlib import Path
from flavr_jax.reading.inputs import Input
from flavr_jax.reading.parent import ChildSource
path = Path(sys.argv[1])
source = ChildSource(path, Input(), info=Input().open(path).info)
frames = iter(source)
next(frames)
from test_child_source import source_child
print(source_child(frames).pid, flush=True)
sys.stdin.readline()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, the child ends at its next frame")
def test_the_child_ends_when_its_parent_is_killed(tmp_path):
    path = two_shots(tmp_path / "a.mkv")
    folders = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": folders},
    ) as run:  # fmt: skip
        assert run.stdout is not None
        child = int(run.stdout.readline())
        run.kill()
    for _ in range(100):
        state = Path(f"/proc/{child}/stat")
        # Without a parent that waits for it, it may stay as a zombie.
        if not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.05)
    raise AssertionError("the child lives on")


def test_only_long_files_are_decoded_in_a_child(tmp_path, monkeypatch):
    path = two_shots(tmp_path / "a.mkv")
    source = Input()
    short = source.open(path)
    assert source.in_child(path, short) is short
    monkeypatch.setattr(inputs, "_LONG", 20)
    long = source.in_child(path, short)
    assert isinstance(long, ChildSource)
    long.close()
    sandboxed = Input(sandbox=True)
    assert sandboxed.in_child(path, short) is short
    pipe = open_source(path)
    assert source.in_child(Path("-"), pipe) is pipe
