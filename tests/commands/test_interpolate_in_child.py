# SPDX-License-Identifier: Apache-2.0
"""With a GPU, long clips are decoded in a child process; the output is the same."""

from __future__ import annotations

import types

import pytest

from flavr_jax.commands import interpolation
from flavr_jax.reading import inputs
from flavr_jax.reading.parent import ChildSource
from tests.commands.clips import write_clip, write_folder


@pytest.fixture
def sources(monkeypatch):
    """Let every clip be decoded as a long one on a GPU; a list of what its frames come from."""
    seen = []
    real = interpolation.stream.overlapped

    def overlapped(pipeline, frames, *arguments):
        seen.append(frames)
        return real(pipeline, frames, *arguments)

    monkeypatch.setattr(interpolation.stream, "overlapped", overlapped)
    device = types.SimpleNamespace(default_backend=lambda: "gpu")
    monkeypatch.setattr(interpolation, "jax", device)
    monkeypatch.setattr(inputs, "_LONG", 1)
    return seen


@pytest.mark.parametrize("options", [(), ("--dedup", "--range", "0.1-")], ids=["cuts", "dedup"])
def test_the_output_is_the_same(interpolate, tmp_path, sources, monkeypatch, options):
    write_clip(tmp_path / "in.mp4", 9)
    assert interpolate("in.mp4", "child.mp4", "--factor", 8, *options) == 0
    monkeypatch.setattr(inputs, "_LONG", 100)
    assert interpolate("in.mp4", "here.mp4", "--factor", 8, *options) == 0
    assert [isinstance(source, ChildSource) for source in sources] == [True, False]
    assert (tmp_path / "child.mp4").read_bytes() == (tmp_path / "here.mp4").read_bytes()


def test_images_are_copied(interpolate, tmp_path, sources):
    write_folder(tmp_path / "in", 3)
    assert interpolate("in", "out/", "--factor", 8) == 0
    assert isinstance(sources[0], ChildSource)
    for number in range(3):
        original = sorted((tmp_path / "in").iterdir())[number]
        copy = sorted((tmp_path / "out").iterdir())[8 * number]
        assert copy.read_bytes() == original.read_bytes()


def test_a_damaged_clip_is_processed_and_reported(interpolate, tmp_path, sources, capsys):
    write_clip(tmp_path / "whole.mkv", 40)
    content = (tmp_path / "whole.mkv").read_bytes()
    (tmp_path / "in.mkv").write_bytes(content[: len(content) * 2 // 3])
    assert interpolate("in.mkv", "out.mkv", "--factor", 8) == 1
    assert isinstance(sources[0], ChildSource)
    assert "is damaged (" in capsys.readouterr().err
