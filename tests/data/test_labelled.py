# SPDX-License-Identifier: Apache-2.0
import dataclasses
import re

import imageio.v3 as iio
import numpy as np
import pytest

from flavr_jax.data.labelled import LabelledConfig, LabelledLoader, read

CONFIG = LabelledConfig(frames=3, spacing=2, crop=8, batch_size=4, flips=False, threads=2)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two classes of three clips; frame t of clip n of class c has the value 100c + 10n + t."""
    root = tmp_path_factory.mktemp("labelled")
    for label, name in enumerate(("jump", "run")):
        for number in range(3):
            clip = root / name / f"clip{number}"
            clip.mkdir(parents=True)
            for time in range(6):
                colour = 100 * label + 10 * number + time
                iio.imwrite(clip / f"{time}.png", np.full((8, 10, 3), colour, np.uint8))
    return root


def test_folders_are_classes_and_a_list_names_some_of_their_clips(root, tmp_path):
    everything = read(root)
    assert everything.classes == ("jump", "run")
    assert everything.labels == (0, 0, 0, 1, 1, 1)
    (tmp_path / "list.txt").write_text("run/clip2 2\njump/clip0 1\n")
    some = read(root, tmp_path / "list.txt")
    assert (some.paths, some.labels) == ((root / "run/clip2", root / "jump/clip0"), (1, 0))
    (tmp_path / "list.txt").write_text("run/clip7 2\n")
    with pytest.raises(FileNotFoundError, match="clip7 is missing"):
        read(root, tmp_path / "list.txt")
    with pytest.raises(FileNotFoundError, match=r"CLASS/clip\.avi"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("crop", 100, "`crop` is 100; it is a multiple of 8. Use 96."),
        ("crop", 0, "`crop` is 0; it is a multiple of 8. Use 8."),
        ("frames", 0, "`frames` is 0; it is at least 1."),
        ("batch_size", -1, "`batch_size` is -1; it is at least 1."),
    ],
)
def test_sizes_that_samples_cannot_have_are_refused(name, value, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        dataclasses.replace(CONFIG, **{name: value})


def test_frames_are_spaced_and_belong_to_the_label(root):
    batch = next(LabelledLoader(read(root), CONFIG))
    assert batch.clips.shape == (4, 3, 8, 8, 3)
    colours = batch.clips[:, :, 0, 0, 0].astype(int)
    np.testing.assert_array_equal(np.diff(colours, axis=1), 2)
    np.testing.assert_array_equal(colours[:, 0] // 100, batch.labels)


def test_an_epoch_has_every_clip_once_and_the_next_another_order(root):
    one = dataclasses.replace(CONFIG, batch_size=6)
    loader = LabelledLoader(read(root), one)
    epochs = [next(loader).clips[:, 0, 0, 0, 0] // 10 for _ in range(4)]
    for epoch in epochs:
        assert sorted(epoch) == [0, 1, 2, 10, 11, 12]
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_a_loader_goes_on_where_its_state_was_taken_and_processes_share_a_batch(root):
    source = read(root)
    loader = LabelledLoader(source, CONFIG, seed=3)
    next(loader)
    state = loader.get_state()
    expected = next(loader)
    other = LabelledLoader(source, CONFIG, seed=3)
    other.set_state(state)
    np.testing.assert_array_equal(next(other).clips, expected.clips)
    for process in range(2):
        share = LabelledLoader(source, CONFIG, seed=3, process=process, processes=2)
        share.set_state(state)
        np.testing.assert_array_equal(next(share).clips, expected.clips[process::2])


def test_validation_is_the_middle_in_order_and_a_short_clip_begins_again(root):
    longer = dataclasses.replace(CONFIG, frames=4, batch_size=2)
    batch = next(LabelledLoader(read(root), longer, training=False))
    np.testing.assert_array_equal(batch.clips[:, :, 0, 0, 0], [[0, 2, 4, 0], [10, 12, 14, 10]])


def test_a_crop_larger_than_the_frames_is_refused(root):
    with pytest.raises(ValueError, match=r"10×8, smaller than the crop of 16"):
        next(LabelledLoader(read(root), dataclasses.replace(CONFIG, crop=16)))


def test_a_listed_clip_of_an_unknown_class_is_named_beside_the_classes(root, tmp_path):
    (tmp_path / "list.txt").write_text("jump/clip0 1\nswim/clip0 3\n")
    with pytest.raises(ValueError, match=r"names swim/clip0, but .* its classes are jump, run"):
        read(root, tmp_path / "list.txt")


def test_blank_lines_of_a_list_do_not_count(root, tmp_path):
    (tmp_path / "list.txt").write_text("\njump/clip1\n\n  \n")
    assert read(root, tmp_path / "list.txt").paths == (root / "jump/clip1",)


def test_crops_are_cut_anywhere_in_training_and_from_the_middle_otherwise(tmp_path):
    picture = np.arange(20, dtype=np.uint8)[None, :, None] + np.zeros((8, 1, 3), np.uint8)
    (tmp_path / "a" / "clip").mkdir(parents=True)
    iio.imwrite(tmp_path / "a" / "clip" / "0.png", picture)
    config = dataclasses.replace(CONFIG, frames=1, batch_size=60)
    lefts = next(LabelledLoader(read(tmp_path), config)).clips[:, 0, 0, 0, 0]
    assert set(lefts.tolist()) == set(range(13))
    middle = next(LabelledLoader(read(tmp_path), config, training=False)).clips[:, 0, 0, 0, 0]
    assert set(middle.tolist()) == {6}


def test_half_of_the_training_samples_are_mirrored_if_asked_for(tmp_path):
    picture = np.arange(8, dtype=np.uint8)[None, :, None] + np.zeros((8, 1, 3), np.uint8)
    (tmp_path / "a" / "clip").mkdir(parents=True)
    iio.imwrite(tmp_path / "a" / "clip" / "0.png", picture)
    for flips, shares in ((True, (0.3, 0.7)), (False, (0.0, 0.0))):
        config = dataclasses.replace(CONFIG, frames=1, batch_size=100, flips=flips)
        clips = next(LabelledLoader(read(tmp_path), config)).clips
        mirrored = clips[:, 0, 0, 0, 0] == 7
        assert (mirrored | (clips[:, 0, 0, 0, 0] == 0)).all()
        assert shares[0] <= mirrored.mean() <= shares[1]
