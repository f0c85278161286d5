# SPDX-License-Identifier: Apache-2.0
import pickle
import sys

import numpy as np
import pytest

from flavr_jax.data import array_record, sources

pytest.importorskip("tensorflow_datasets", reason="packing needs the extra `train`")
pytest.importorskip("array_record", reason="packing needs the extra `train`")


@pytest.fixture
def frames(tmp_path):
    """Write a Vimeo-90K of three clips; return the frames of each clip by its name."""
    from PIL import Image

    rng = np.random.default_rng(0)
    names = ["00001/0001", "00001/0002", "00002/0001"]
    found = {}
    for name in names:
        folder = tmp_path / "vimeo/sequences" / name
        folder.mkdir(parents=True)
        found[name] = rng.integers(0, 256, (7, 24, 32, 3), dtype=np.uint8)
        for number, frame in enumerate(found[name], 1):
            Image.fromarray(frame).save(folder / f"im{number}.png")
    (tmp_path / "vimeo/sep_testlist.txt").write_text("\n".join(names))
    return found


@pytest.mark.parametrize("encoding", ["original", "png", "raw"])
def test_every_pixel_comes_back_from_the_shards(tmp_path, frames, encoding):
    sequences = sources.data_set("vimeo90k").read(tmp_path / "vimeo")
    array_record.pack(sequences, tmp_path / "packed", encoding=encoding)
    assert "tensorflow" not in sys.modules
    assert array_record.is_packed(tmp_path / "packed")
    assert {entry.name for entry in tmp_path.iterdir()} == {"vimeo", "packed"}
    packed = array_record.read(tmp_path / "packed")
    assert [each.clip.name for each in packed] == list(frames)
    for each in packed:
        for index in (6, 0, 3):  # in any order
            np.testing.assert_array_equal(each.clip.read(index), frames[each.clip.name][index])
    with pytest.raises(IndexError, match="7 frames"):
        packed[0].clip.read(7)


def test_original_files_are_kept_as_they_are(tmp_path, frames):
    [first, *_] = sources.data_set("vimeo90k").read(tmp_path / "vimeo")
    array_record.pack([first], tmp_path / "packed")
    [packed] = array_record.read(tmp_path / "packed")
    files = sorted((tmp_path / "vimeo/sequences/00001/0001").iterdir())
    assert [packed.clip.encoded(k) for k in range(7)] == [path.read_bytes() for path in files]


def test_what_a_protocol_asks_for_is_packed_along(tmp_path, frames):
    root = tmp_path / "ucf"
    for number in ("1", "2"):
        (root / number).mkdir(parents=True)
        for name, source in zip(("0", "1", "t", "2", "3"), range(1, 6)):
            data = (tmp_path / f"vimeo/sequences/00001/0001/im{source}.png").read_bytes()
            (root / number / f"frame{name}.png").write_bytes(data)
    data_set = sources.data_set("ucf101")
    sequences = data_set.reader(root)
    array_record.pack(sequences, tmp_path / "packed", name="ucf101")
    packed = array_record.read(tmp_path / "packed")
    assert [(each.factor, each.inputs, each.targets) for each in packed] == [
        (each.factor, each.inputs, each.targets) for each in sequences
    ]
    cropped = data_set.read(tmp_path / "packed")
    assert [each.crop for each in cropped] == [(224, 224)] * 2


def test_frames_can_be_scaled_and_lossy_ones_are_close(tmp_path, frames):
    smooth = tmp_path / "smooth"
    smooth.mkdir()
    from PIL import Image

    ramp = np.add.outer(np.arange(64), np.arange(96))[..., None].repeat(3, 2).astype(np.uint8)
    for number in range(7):
        Image.fromarray(ramp).save(smooth / f"{number}.png")
    sequences = sources.data_set("folder-2x").read(smooth)
    array_record.pack(sequences, tmp_path / "packed", encoding="jpeg", short_side=32)
    frame = array_record.read(tmp_path / "packed")[0].clip.read(0)
    assert frame.shape == (32, 48, 3)
    means = ramp.reshape(32, 2, 48, 2, 3).mean(axis=(1, 3))
    assert np.abs(frame - means).max() <= 3
    with pytest.raises(ValueError, match="original files cannot be scaled"):
        array_record.pack(sequences, tmp_path / "again", short_side=32)


def test_what_was_packed_is_read_without_tfds_and_in_other_processes(tmp_path, frames, monkeypatch):
    array_record.pack(sources.data_set("vimeo90k").read(tmp_path / "vimeo"), tmp_path / "packed")
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    packed = array_record.read(tmp_path / "packed")
    sent = pickle.loads(pickle.dumps([each.clip for each in packed]))
    for clip, expected in zip(sent, frames.values(), strict=True):
        np.testing.assert_array_equal(clip.read(3), expected[3])


def test_folders_that_were_not_packed_here_are_refused(tmp_path):
    (tmp_path / "dataset_info.json").write_text("{}")
    (tmp_path / "metadata.json").write_text('{"citation": "another data set"}')
    with pytest.raises(ValueError, match=r"no data set that this project packed; .*prepare-data"):
        array_record.read(tmp_path)


def test_an_existing_folder_is_not_overwritten_and_a_failure_leaves_none(tmp_path, frames):
    (tmp_path / "there").mkdir()
    with pytest.raises(FileExistsError, match="there exists"):
        array_record.pack([], tmp_path / "there")
    [first, *_] = sources.data_set("vimeo90k").read(tmp_path / "vimeo")
    (tmp_path / "vimeo/sequences/00001/0001/im7.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"im7\.png"):
        array_record.pack([first], tmp_path / "packed")
    assert not list(tmp_path.glob("packed*"))


def test_without_the_package_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install .*\[train\]"):
        array_record.pack([], tmp_path / "packed")
