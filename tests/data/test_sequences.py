# SPDX-License-Identifier: Apache-2.0
"""Clips and sequences: which frames belong to a window, and images as they are stored."""

import itertools

import numpy as np
import pytest
from PIL import Image

from flavr_jax.data import sequences
from flavr_jax.data.sequences import ArrayClip, Clip, ImageClip, Sequence, regular

RANDOM = np.random.default_rng(0)


def numbered(count, size=(4, 6)):
    """A clip whose n-th frame has the value n everywhere."""
    frames = np.arange(count, dtype=np.uint8)[:, None, None, None]
    return ArrayClip("numbered", np.broadcast_to(frames, (count, *size, 3)))


class Counting:
    """A clip that counts how often each frame is read."""

    name = "counting"

    def __init__(self, count):
        self.reads = [0] * count

    def __len__(self):
        return len(self.reads)

    def read(self, index):
        self.reads[index] += 1
        return np.full((4, 6, 3), index, np.uint8)

    def encoded(self, index):
        raise NotImplementedError


@pytest.mark.parametrize("factor", [2, 3, 4, 8])
@pytest.mark.parametrize("count", [0, 1, 7, 13, 25, 40])
def test_the_targets_of_a_window_lie_between_its_middle_inputs(count, factor):
    found = regular(numbered(count), factor)
    assert len(found) == len(found.targets) == max(0, (count - 1) // factor - 2)
    assert set(np.diff(found.inputs)) <= {factor}
    for start, targets in enumerate(found.targets):
        _, before, after, _ = found.inputs[start : start + 4]
        assert list(targets) == list(range(before + 1, after))
        assert len(targets) == factor - 1
    assert max(itertools.chain(found.inputs, *found.targets), default=-1) < max(count, 1)


def test_windows_hold_consecutive_inputs_and_truths_the_frames_between():
    found = regular(numbered(13), 2)
    assert [window[:, 0, 0, 0].tolist() for window in found.windows()] == [
        [0, 2, 4, 6], [2, 4, 6, 8], [4, 6, 8, 10], [6, 8, 10, 12],
    ]  # fmt: skip
    assert [truth[:, 0, 0, 0].tolist() for truth in found.truths()] == [[3], [5], [7], [9]]


def test_an_input_that_windows_share_is_read_once():
    clip = Counting(25)
    assert len(list(regular(clip, 3).windows())) == 6
    assert clip.reads == [int(index % 3 == 0) for index in range(25)]


def test_nothing_is_read_before_it_is_asked_for():
    clip = Counting(25)
    windows = regular(clip, 2).windows()
    assert sum(clip.reads) == 0
    next(windows)
    assert sum(clip.reads) == 4


@pytest.mark.parametrize(
    ("size", "crop", "top", "left"),
    [((10, 12), (4, 6), 3, 3), ((11, 13), (4, 6), 3, 3), ((4, 6), (4, 6), 0, 0)],
)
def test_a_crop_is_taken_from_the_centre(size, crop, top, left):
    frames = RANDOM.integers(0, 256, (1, *size, 3), dtype=np.uint8)
    found = Sequence(ArrayClip("noise", frames), 2, (0,), (), crop).read(0)
    np.testing.assert_array_equal(found, frames[0, top : top + crop[0], left : left + crop[1]])


@pytest.mark.parametrize("size", [(4, 8), (8, 4)])
def test_a_frame_that_is_smaller_than_the_crop_is_refused(size):
    clip = ArrayClip("small", np.zeros((1, *size, 3), np.uint8))
    message = rf"small is {size[1]}×{size[0]}, but 6×6 is cropped"
    with pytest.raises(ValueError, match=message):
        Sequence(clip, 2, (0,), (), (6, 6)).read(0)


@pytest.mark.parametrize("encoding", ["png", "raw"])
@pytest.mark.parametrize("size", [(1, 1), (5, 7), (16, 9)])
def test_encoded_frames_decode_to_the_same_pixels(encoding, size):
    frame = RANDOM.integers(0, 256, (*size, 3), dtype=np.uint8)
    np.testing.assert_array_equal(sequences.decode(sequences.encode(frame, encoding)), frame)


def test_jpeg_changes_smooth_frames_little():
    row, column = np.mgrid[:32, :48]
    frame = np.stack([row * 4, column * 4, 255 - row * 4], axis=-1).astype(np.uint8)
    found = sequences.decode(sequences.encode(frame, "jpeg")).astype(int)
    assert np.abs(found - frame).mean() < 2


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK"])
def test_images_of_other_kinds_become_rgb(mode, tmp_path):
    image = Image.new("RGB", (6, 4), (255, 255, 255)).convert(mode)
    path = tmp_path / ("white.tif" if mode == "CMYK" else "white.png")
    image.save(path)
    np.testing.assert_array_equal(sequences.decode(path.read_bytes()), np.full((4, 6, 3), 255))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "a.png cannot be read as an image"),
        (b"not an image at all", "a.png cannot be read as an image"),
        (b"P6 4 4 255\n" + bytes(47), "a.png is cut off: it has 47 of 48 bytes"),
    ],
)
def test_what_is_no_image_is_named(data, message):
    with pytest.raises(ValueError, match=message):
        sequences.decode(data, where="a.png")


def test_bytes_after_a_raw_image_do_not_count():
    frame = RANDOM.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    data = sequences.encode(frame, "raw") + b"\n"
    np.testing.assert_array_equal(sequences.decode(data), frame)


def test_sixteen_bits_are_refused_with_the_remedy(tmp_path):
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "deep.png")
    clip = ImageClip("deep", (tmp_path / "deep.png",))
    with pytest.raises(ValueError, match=r"deep\.png has more than 8 bits a channel; convert it"):
        clip.read(0)


def test_a_clip_of_files_returns_them_byte_for_byte(tmp_path):
    frame = RANDOM.integers(0, 256, (4, 6, 3), dtype=np.uint8)
    (tmp_path / "0.png").write_bytes(sequences.encode(frame, "png"))
    clip = ImageClip("one", (tmp_path / "0.png",))
    assert isinstance(clip, Clip)
    assert len(clip) == 1
    assert clip.encoded(0) == (tmp_path / "0.png").read_bytes()
    np.testing.assert_array_equal(clip.read(0), frame)


def test_a_clip_in_memory_encodes_without_loss():
    frame = RANDOM.integers(0, 256, (4, 6, 3), dtype=np.uint8)
    clip = ArrayClip("one", frame[None])
    np.testing.assert_array_equal(sequences.decode(clip.encoded(0)), frame)


def test_images_are_listed_in_natural_order_and_other_files_are_not(tmp_path):
    for name in ("10.png", "2.PNG", "1.jpeg", "b3.webp", "a.txt", ".hidden.png", "B12.bmp"):
        (tmp_path / name).touch()
    assert [path.name for path in sequences.images_of(tmp_path)] == [
        "1.jpeg", "2.PNG", "10.png", "b3.webp", "B12.bmp",
    ]  # fmt: skip


def test_subfolders_are_listed_in_natural_order(tmp_path):
    for name in ("clip10", "clip9", "Clip1"):
        (tmp_path / name).mkdir()
    (tmp_path / "clip0.txt").touch()
    found = sequences.subfolders(tmp_path, layout="CLIP/*.png")
    assert [path.name for path in found] == ["Clip1", "clip9", "clip10"]


@pytest.mark.parametrize("folder", ["empty", "missing"])
def test_a_folder_without_clips_says_which_layout_is_read(tmp_path, folder):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=rf"{folder} holds no folders; .* CLIP/\*\.png"):
        sequences.subfolders(tmp_path / folder, layout="CLIP/*.png")
