# SPDX-License-Identifier: Apache-2.0
"""Reading an output back finds what is wrong with it, and nothing where nothing is."""

from __future__ import annotations

import dataclasses
from fractions import Fraction

import numpy as np
import pytest

from flavr_jax.video.files.encoders import Encoding
from flavr_jax.video.files.reader import open_source
from flavr_jax.video.files.sinks import open_sink
from flavr_jax.video.frames import TimedFrame
from flavr_jax.video.verify import compare, recorded


def doubled(source, *, brighter=0):
    """The frames of a source with one made inside each interval, brighter than it should be."""
    before = None
    for frame in source:
        if before is not None:
            step = (frame.pts - before.pts) / 2
            mean = (before.pixels.astype(int) + frame.pixels) // 2 + brighter
            yield TimedFrame(mean.astype(np.uint8), before.pts + step, step)
        yield frame
        before = frame


def written(source_path, output, *, encoding=None, brighter=0):
    """Double a clip and compare."""
    source, origins = open_source(source_path), []
    info = dataclasses.replace(source.info, rate=source.info.rate * 2)
    with open_sink(str(output), info, source=source_path, encoding=encoding or Encoding()) as sink:
        for frame in recorded(doubled(source, brighter=brighter), origins):
            sink.write(frame)
    return compare(open_source(source_path), open_source(output), origins)


def test_a_lossless_output_differs_nowhere(make_clip, tmp_path):
    found = written(make_clip(), tmp_path / "a.mkv", encoding=Encoding("ffv1"))
    assert (found.originals, found.difference) == (5, 0)
    assert found.flicker < 0.3  # the made frames here round down


def test_compression_shows(make_clip, tmp_path):
    found = written(make_clip(), tmp_path / "a.mp4", encoding=Encoding(crf=40))
    assert 0.5 < found.difference < 20


@pytest.mark.parametrize("brighter", [1, 3])
def test_flicker_shows_with_its_size_and_place(make_clip, tmp_path, brighter):
    found = written(make_clip(), tmp_path / "out.mkv", encoding=Encoding("ffv1"), brighter=brighter)
    assert found.flicker == pytest.approx(brighter, abs=0.5)
    assert found.flicker_at.denominator != 24
    assert f"at most {found.flicker:.3f} levels" in str(found)


def test_turned_pictures_are_compared_as_they_are_shown(make_clip, tmp_path):
    source = make_clip("in.mkv", codec="ffv1", rotation=90)
    found = written(source, tmp_path / "a.avi", encoding=Encoding("ffv1"))
    # AVI cannot say that chroma, too, has turned: between columns has become between rows.
    assert found.difference < 2


def test_frames_that_were_left_out_are_noticed(make_clip, tmp_path):
    pts = [Fraction(index, 100) for index in range(5)]
    with pytest.raises(ValueError, match="leave frames out cannot be verified"):
        written(make_clip(pts=pts), tmp_path / "a.gif")
