# SPDX-License-Identifier: Apache-2.0
import dataclasses
import json
import sys

import numpy as np
import pytest

from flavr_jax.data import pipeline
from flavr_jax.data.pipeline import LoaderConfig

pytest.importorskip("grain", reason="the loader needs the extra `train`")


@dataclasses.dataclass(frozen=True)
class Numbered:
    """Uniform frames: red is the number of the clip, green that of the frame."""

    number: int
    length: int
    size: tuple[int, int] = (20, 24)

    @property
    def name(self):
        return f"clip {self.number}"

    def __len__(self):
        return self.length

    def read(self, index):
        assert 0 <= index < self.length
        return np.broadcast_to(np.array([self.number, index, 0], np.uint8), (*self.size, 3))

    def encoded(self, index):
        raise NotImplementedError


CLIPS = [Numbered(0, 7), Numbered(1, 13), Numbered(2, 26)]
WINDOWS_2 = [(clip.number, start) for clip in CLIPS for start in range(clip.length - 6)]  # 28


def loader(config, clips=CLIPS, n_outputs=1, **options):
    return pipeline.Loader(clips, n_outputs, dataclasses.replace(config, crop=16), **options)


def firsts(batch):
    """Return clip and first frame of each window of a batch."""
    return [tuple(int(v) for v in frame[0, 0, :2]) for frame in np.asarray(batch.inputs[:, 0])]


def test_a_batch_has_the_frames_at_its_times_and_says_which_were_filmed():
    config = LoaderConfig(batch_size=4, spacings=(4,))
    batch = next(loader(config, n_outputs=7))
    assert batch.inputs.shape == (4, 4, 16, 16, 3)
    assert batch.targets.shape == (4, 7, 16, 16, 3)
    start = np.asarray(batch.inputs[:, :1, 0, 0, 1])
    np.testing.assert_array_equal(batch.inputs[:, :, 5, 5, 1], start + np.array([0, 4, 8, 12]))
    np.testing.assert_array_equal(batch.weights, np.tile([0, 1, 0, 1, 0, 1, 0], (4, 1)))
    np.testing.assert_array_equal(batch.targets[:, 1::2, 5, 5, 1], start + np.array([5, 6, 7]))
    np.testing.assert_array_equal(batch.targets[:, 0::2], 0)


def test_an_epoch_is_every_window_once_and_the_next_one_in_another_order():
    batches = loader(LoaderConfig(batch_size=7))
    epochs = [[pair for _ in range(4) for pair in firsts(next(batches))] for _ in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == WINDOWS_2
    assert epochs[0] != epochs[1]
    assert epochs[0] != WINDOWS_2


@pytest.mark.parametrize("workers", [0, 1])
def test_processes_share_an_epoch_without_overlap(workers):
    config = LoaderConfig(batch_size=7, workers=workers)
    shares = []
    for process in range(2):
        batches = loader(config, process=process, processes=2)
        shares.append([pair for _ in range(2) for pair in firsts(next(batches))])
    assert sorted(shares[0] + shares[1]) == WINDOWS_2


def test_the_same_seed_gives_the_same_batches_whatever_the_threads():
    picture = [Pictures()]
    for seed, equal in ((0, True), (1, False)):
        one = loader(LoaderConfig(batch_size=5, threads=1), picture)
        other = loader(LoaderConfig(batch_size=5, threads=4, seed=seed), picture)
        for _ in range(3):
            assert np.array_equal(next(one).inputs, next(other).inputs) == equal


def test_every_thread_may_read_even_for_small_batches(caplog):
    next(loader(LoaderConfig(batch_size=1, threads=8)))
    assert caplog.messages == []  # grain warns if the buffer is smaller than the threads


def test_a_run_resumes_exactly_behind_the_batch_it_used_last():
    config = LoaderConfig(batch_size=5)
    batches = loader(config, [Pictures()])
    for _ in range(4):
        next(batches)
    state = json.loads(json.dumps(batches.get_state()))
    expected = [next(batches) for _ in range(6)]  # into the next epoch
    resumed = loader(config, [Pictures()])
    next(resumed)
    resumed.set_state(state)
    for batch in expected:
        found = next(resumed)
        np.testing.assert_array_equal(found.inputs, batch.inputs)
        np.testing.assert_array_equal(found.targets, batch.targets)


@dataclasses.dataclass(frozen=True)
class Pictures:
    """A still clip of 26 frames in which every position has its own colour."""

    name: str = "still"

    def __len__(self):
        return 26

    def read(self, index):
        return np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)

    def encoded(self, index):
        raise NotImplementedError


def test_all_frames_of_a_window_are_cut_at_one_place_and_windows_at_many():
    batch = next(loader(LoaderConfig(batch_size=20), [Pictures()]))
    frames = np.concatenate([batch.inputs, batch.targets], axis=1)
    np.testing.assert_array_equal(frames, np.repeat(frames[:, :1], 5, axis=1))
    assert len(np.unique(frames[:, 0].reshape(20, -1), axis=0)) > 10


def test_frame_rates_vary_where_clips_are_long_enough():
    table = pipeline.WindowIndex(list(CLIPS), (2, 4, 8))
    places = {table[number] for number in range(len(table))}
    assert len(places) == len(table) == (1 + 7 + 20) + (1 + 14) + 2
    assert {(clip, spacing) for clip, spacing, _ in places} == {
        (0, 2), (1, 2), (2, 2), (1, 4), (2, 4), (2, 8),
    }  # fmt: skip


def test_a_longer_shutter_mixes_the_frames_around_each_input():
    config = LoaderConfig(crop=16, spacings=(4,), shutters=(3,))
    clip = Numbered(0, 26)
    read = pipeline.WindowReader([clip], 3, config)
    window = read((0, 4, 5), np.random.default_rng(0))
    for frame, index in zip(window.inputs, (5, 9, 13, 17)):
        levels = np.array([index - 1, index, index + 1]) / 255
        expected = 255 * (levels**2.2).mean() ** (1 / 2.2)
        assert abs(float(frame[0, 0, 1]) - expected) <= 0.5
    at_the_start = read((0, 4, 0), np.random.default_rng(0))  # no frame before the first
    assert at_the_start.inputs[0, 0, 0, 1] == 0
    with pytest.raises(ValueError, match=r"shutters.*odd"):
        LoaderConfig(shutters=(1, 2))


def test_clips_too_short_or_too_small_or_too_few_are_refused():
    with pytest.raises(ValueError, match="7 frames that a spacing of 2"):
        loader(LoaderConfig(), [Numbered(0, 6)])
    with pytest.raises(ValueError, match="there are 1 windows"):
        loader(LoaderConfig(batch_size=2), [Numbered(0, 7)])
    with pytest.raises(ValueError, match="clip 0 is 24×10, smaller than the crop of 16"):
        next(loader(LoaderConfig(batch_size=1), [Numbered(0, 7, (10, 24))]))


def test_packed_clips_are_read_like_any_others(tmp_path):
    pytest.importorskip("array_record", reason="packing needs the extra `train`")
    from flavr_jax.data import array_record
    from flavr_jax.data.sequences import regular

    array_record.pack([regular(CLIPS[2], 2)], tmp_path / "packed", encoding="raw")
    clips = [sequence.clip for sequence in array_record.read(tmp_path / "packed")]
    batches = loader(LoaderConfig(batch_size=10, workers=1), clips)
    epoch = [pair for _ in range(2) for pair in firsts(next(batches))]
    assert sorted(epoch) == [(2, start) for start in range(20)]


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "grain", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install .*\[train\]"):
        loader(LoaderConfig())
