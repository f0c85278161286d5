# SPDX-License-Identifier: Apache-2.0
"""Options of resources change no frame: pipeline, memory, an output that is thrown away."""

from __future__ import annotations

from pathlib import Path

import imageio.v3 as imageio
import jax
import numpy as np
import pytest

from flavr_jax import checkpoint
from flavr_jax.inference import stream
from flavr_jax.video.files.reader import VideoReader
from flavr_jax.video.pixels.colour import from_rgb
from tests.commands.clips import write_clip, write_folder

pytestmark = pytest.mark.usefixtures("definition")


def test_a_null_output_takes_all_frames_and_leaves_no_file(interpolate, capsys):
    write_clip(Path("in.mp4"), 3)
    assert interpolate("in.mp4", "null:", "--factor", 4) == 0
    assert "3 frames → 9 frames in null:" in capsys.readouterr().out
    assert [path.name for path in Path().iterdir()] == ["in.mp4"]
    assert interpolate("in.mp4", "null:", "--factor", 4, "--verify") == 2
    assert "use a file" in capsys.readouterr().err


def test_the_pipeline_changes_no_value_of_the_output(interpolate, network, load_once):
    write_clip(Path("in.mkv"), 5)
    assert interpolate("in.mkv", "--factor", 8, "--codec", "ffv1") == 0
    # Frame by frame, with conversion on the host, as a library user would do it.
    source = VideoReader(Path("in.mkv"), headroom=True)
    made = stream.interpolate(source, load_once(network, precision="auto"), stream.Options(8))
    for expected, written in zip(made, VideoReader(Path("in_8x.mkv")), strict=True):
        if expected.original is None:
            frame = from_rgb(expected.pixels, "yuv420p", source.info.colour)
        else:
            frame = expected.original
        np.testing.assert_array_equal(written.original.to_ndarray(), frame.to_ndarray())


def test_stripes_that_keep_a_limit_of_memory_make_the_same_video(
    interpolate, tmp_path, capsys, network
):
    write_folder(tmp_path / "clip", count=2, size=(16, 1024))
    assert interpolate("clip", "whole/", "--factor", 2) == 0
    # The limit includes the network's parameters.
    parameters = sum(leaf.nbytes for leaf in jax.tree.leaves(checkpoint.load(network).params))
    limit = f"{parameters / 1e6 + 4:.3f}MB"
    assert interpolate("clip", "parts/", "--factor", 2, "--memory-limit", limit) == 0
    assert "stripes in" in capsys.readouterr().out
    for name in sorted(path.name for path in (tmp_path / "whole").iterdir()):
        whole, parts = (imageio.imread(tmp_path / folder / name) for folder in ("whole", "parts"))
        # Gates are estimated here; the network is random, and its output small.
        assert np.abs(whole.astype(int) - parts).max() <= 2
    assert interpolate("clip", "none/", "--memory-limit", "1MB") == 2
    assert "use a higher limit" in capsys.readouterr().err
