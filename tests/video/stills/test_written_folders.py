# SPDX-License-Identifier: Apache-2.0
"""Folders of images as outputs: they are complete or absent, and replace nothing by mistake."""

from __future__ import annotations

from fractions import Fraction

import imageio.v3 as imageio
import numpy as np
import pytest

from flavr_jax.video.frames import ClipInfo, TimedFrame
from flavr_jax.video.stills.images import ImageFolder, ImageFolderWriter

INFO = ClipInfo(8, 6, Fraction(24), Fraction(1, 24))


def flat(value, channels=3, size=(6, 8)):
    return np.full((*size, channels), value, np.uint8)


def frame(value=0):
    return TimedFrame(flat(value), Fraction(0), Fraction(1, 24))


def test_written_frames_are_read_back_unchanged(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (3, 5, 7, 3), dtype=np.uint8)
    with ImageFolderWriter(tmp_path / "out", INFO) as sink:
        for pixels in noise:
            sink.write(TimedFrame(pixels, Fraction(0), Fraction(1)))
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "frame_000001.png",
        "frame_000002.png",
        "frame_000003.png",
    ]
    np.testing.assert_array_equal([f.pixels for f in ImageFolder(tmp_path / "out")], noise)


def test_the_folder_has_its_name_only_when_complete(tmp_path):
    with ImageFolderWriter(tmp_path / "out", INFO) as sink:
        sink.write(frame())
        assert not (tmp_path / "out").exists()
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def interrupted_run(path, **options):
    with ImageFolderWriter(path, INFO, **options) as sink:
        sink.write(frame())
        raise KeyboardInterrupt


def test_an_interrupted_run_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        interrupted_run(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_run_leaves_an_older_result_alone(tmp_path):
    with ImageFolderWriter(tmp_path / "out", INFO) as sink:
        sink.write(frame(7))
    with pytest.raises(KeyboardInterrupt):
        interrupted_run(tmp_path / "out", overwrite=True)
    assert [f.pixels[0, 0, 0] for f in ImageFolder(tmp_path / "out")] == [7]


def test_an_existing_folder_is_kept_unless_told_otherwise(tmp_path):
    imageio.imwrite(tmp_path / "a.png", flat(1))
    with pytest.raises(FileExistsError, match="--overwrite"):
        ImageFolderWriter(tmp_path, INFO)


def test_an_empty_folder_is_used(tmp_path):
    (tmp_path / "out").mkdir()
    with ImageFolderWriter(tmp_path / "out", INFO) as sink:
        sink.write(frame())
    assert len(list((tmp_path / "out").iterdir())) == 1


def test_overwriting_replaces_the_older_images(tmp_path):
    for count in (3, 1):
        with ImageFolderWriter(tmp_path / "out", INFO, overwrite=True) as sink:
            for _ in range(count):
                sink.write(frame())
    assert len(list((tmp_path / "out").iterdir())) == 1


def test_a_folder_with_other_files_is_never_replaced(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match=r"thesis\.tex"):
        ImageFolderWriter(tmp_path, INFO, overwrite=True)
    assert (tmp_path / "thesis.tex").exists()


def test_photos_are_never_replaced(tmp_path):
    imageio.imwrite(tmp_path / "holiday.png", flat(1))
    with pytest.raises(FileExistsError, match=r"holiday\.png"):
        ImageFolderWriter(tmp_path, INFO, overwrite=True)
    assert (tmp_path / "holiday.png").exists()


def test_a_folder_with_a_name_such_as_a_partial_output_survives(tmp_path):
    (tmp_path / "frames.partial").mkdir()
    imageio.imwrite(tmp_path / "frames.partial" / "1.png", flat(1))
    with ImageFolderWriter(tmp_path / "frames", INFO) as sink:
        sink.write(frame())
    assert (tmp_path / "frames.partial" / "1.png").exists()


def test_files_that_come_while_frames_are_written_stay(tmp_path):
    for round_ in range(2):
        with ImageFolderWriter(tmp_path / "out", INFO, overwrite=True) as sink:
            sink.write(frame())
            if round_:
                (tmp_path / "out" / "notes.txt").write_text("by the user")
    assert {entry.name for entry in (tmp_path / "out").iterdir()} == {
        "frame_000001.png", "notes.txt",
    }  # fmt: skip


def test_a_file_is_never_replaced_by_a_folder(tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(FileExistsError, match="is a file"):
        ImageFolderWriter(tmp_path / "out", INFO, overwrite=True)
