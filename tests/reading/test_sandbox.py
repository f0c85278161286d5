# SPDX-License-Identifier: Apache-2.0
"""A sandboxed source has the frames of a plain one, and survives whatever its child does."""

from __future__ import annotations

import json
import sys
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from flavr_jax.bundled import SAMPLE
from flavr_jax.reading import parent
from flavr_jax.reading.inputs import Input
from flavr_jax.reading.parent import ChildSource, Limits
from flavr_jax.reading.slots import as_json, info_of
from flavr_jax.video.frames import ClipInfo
from flavr_jax.video.pixels.colour import Colour
from flavr_jax.video.pixels.hdr import StaticHDR

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits are those of Linux")


def film(path, pixel_format="yuv420p10le", size=(50, 38)):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("gif" if path.suffix == ".gif" else "ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = *size, pixel_format
        for number in range(9):
            pixels = np.random.default_rng(number).integers(0, 256, (*size[::-1], 3), np.uint8)
            picture = av.VideoFrame.from_ndarray(pixels, "rgb24").reformat(format=pixel_format)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return path


def images(path):
    path.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (20, 30, 3), np.uint8)
        Image.fromarray(pixels).save(path / f"{number}.png", exif=exif, icc_profile=b"x" * 200)
    return path


def gif(folder):
    return film(folder / "a.gif", "rgb8")


@pytest.mark.parametrize(
    "make",
    [lambda folder: film(folder / "a.mkv"), gif, lambda folder: images(folder / "images")],
    ids=["film", "gif", "images"],
)
def test_frames_are_those_of_the_plain_source(tmp_path, make):
    path = make(tmp_path)
    plain = Input().open(path)
    sandboxed = Input(sandbox=True).open(path)
    assert sandboxed.info == plain.info
    for one, other in zip(sandboxed, plain, strict=True):
        np.testing.assert_array_equal(one.pixels, other.pixels)
        assert (one.pts, one.duration) == (other.pts, other.duration)
        assert one.original.opaque.index == other.original.opaque.index
        assert one.original.opaque.path is None  # the child names no file to copy
    assert sandboxed.damage is None


def test_ranges_damage_and_a_second_iteration_pass_through(tmp_path):
    path = tmp_path / "in.mp4"
    path.write_bytes(SAMPLE.read_bytes()[:-2000])
    source = Input(sandbox=True, range="1-").open(path)
    first = [frame.pts for frame in source]
    assert first == [frame.pts for frame in Input(range="1-").open(path)]
    assert source.damage is not None
    assert [frame.pts for frame in source] == first


@pytest.mark.parametrize(
    ("text", "message"), [("junk", "not a video"), (None, "nowhere.mp4")], ids=["junk", "missing"]
)
def test_what_cannot_be_opened_is_explained(tmp_path, text, message):
    path = tmp_path / "nowhere.mp4"
    if text is not None:
        path.write_text(text)
    with pytest.raises((ValueError, OSError), match=message):
        ChildSource(path, Input(), Limits())


INFO = ClipInfo(
    32, 24, Fraction(24000, 1001), Fraction(1, 24000), 7, Fraction(4, 3),
    Colour(1, 2, 3, 4, 5, True), "yuv420p", tuple(range(9)),
    StaticHDR((0.5,) * 10, (1000, 400)), b"\0\xff", "png", 3,
)  # fmt: skip


def test_properties_come_back_from_json():
    assert info_of(json.loads(json.dumps(as_json(INFO)))) == INFO


@pytest.mark.parametrize(
    "wrong",
    [
        {"width": -1}, {"rate": "1/0"}, {"rate": "x"}, {"colour": [1]}, {"pixel_format": "../a"},
        {"profile": "%"}, {"display_matrix": [1]}, {"hdr": 3}, {"height": None}, {"time_base": "0"},
    ],
    ids=str,
)  # fmt: skip
def test_properties_that_are_none_are_refused(wrong):
    for values in ({**as_json(INFO), **wrong}, {}):
        with pytest.raises(ValueError, match="description of the clip is broken"):
            info_of(values)


def child(monkeypatch, after, frames=2):
    """Let a program be the child that describes a clip, sends frames, and then does anything."""
    program = f"""
import json, os, resource, signal, sys, time
job = json.loads(sys.stdin.readline())
print(json.dumps({{"info": {as_json(INFO)!r}}}), flush=True)
sys.stdin.readline()
def send(**message):
    print(json.dumps(message), flush=True)
def frame(n, **changes):
    values = {{"slot": n % 16, "format": "yuv420p", "pts": f"{{n}}/25", "duration": "1/25",
              "link": "motion", "path": None}}
    send(**{{**values, **changes}})
for n in range({frames}):
    frame(n)
{after}
"""
    monkeypatch.setattr(parent, "PROGRAM", ("-c", program))


def test_a_decoder_that_crashes_ends_the_clip_there(monkeypatch, tmp_path):
    child(monkeypatch, "os.kill(os.getpid(), signal.SIGSEGV)")
    source = ChildSource(tmp_path, Input(), Limits())
    assert len(list(source)) == 2
    assert source.damage == "the decoder in the sandbox ended by SIGSEGV"


def test_a_decoder_that_hangs_is_ended(monkeypatch, tmp_path):
    child(monkeypatch, "time.sleep(60)")
    source = ChildSource(tmp_path, Input(), Limits(patience=1.0))
    began = time.monotonic()
    with pytest.raises(TimeoutError, match="worked on one frame for 1 s"):
        list(source)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    "message",
    [
        "frame(2, slot=99)", "frame(2, slot=-1)", "frame(2, format='yuv444p16le')",
        "frame(2, format='rgba')", "frame(2, format='nonsense')", "frame(1)",
        "frame(2, duration='-1')", "frame(2, pts='x')", "print('[1]', flush=True)",
        "print('no json', flush=True)", "send(slot=1)", "print('9' * 10**6, flush=True)",
        "frame(2, pts='1/0')", "frame(2, link='x')", "frame(2, link=[])",
    ],
)  # fmt: skip
def test_a_decoder_that_lies_is_not_believed(monkeypatch, tmp_path, message):
    child(monkeypatch, message)
    with pytest.raises(ValueError, match=r"breaks its rules|Expecting value|Exceeds the limit"):
        list(ChildSource(tmp_path, Input(), Limits()))


def test_messages_of_the_decoder_cannot_move_the_cursor(monkeypatch, tmp_path, caplog):
    child(monkeypatch, "send(warning='\\x1b[2J'); send(damage='\\x1b[2J')")
    source = ChildSource(tmp_path, Input(), Limits())
    list(source)
    assert caplog.messages == ["\\x1b[2J"]
    assert source.damage == "\\x1b[2J"


def test_the_child_ends_when_the_frames_are_no_longer_read(monkeypatch, tmp_path):
    child(monkeypatch, "time.sleep(60)")
    source = ChildSource(tmp_path, Input(), Limits())
    process = source._child._process
    frames = iter(source)
    next(frames)
    frames.close()
    assert process.poll() is not None


LIMITED = """
import json, sys
sys.stdin.readline()
from flavr_jax.reading.child import _give_up_rights
_give_up_rights(10**9)
try:
    {action}
except (OSError, MemoryError) as error:
    print(json.dumps({{"error": "ValueError", "message": type(error).__name__}}), flush=True)
"""


@pytest.mark.parametrize(
    ("action", "error"),
    [
        ("bytearray(2 * 10**9)", "MemoryError"),
        ("open('out', 'wb', buffering=0).write(b'x')", "OSError"),
    ],
)
def test_the_child_has_little_memory_and_writes_no_file(monkeypatch, tmp_path, action, error):
    monkeypatch.setattr(parent, "PROGRAM", ("-c", LIMITED.format(action=action)))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=error):
        ChildSource(tmp_path, Input(), Limits())
    assert not Path("out").exists() or Path("out").read_text() == ""
