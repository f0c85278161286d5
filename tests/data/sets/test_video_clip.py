# SPDX-License-Identifier: Apache-2.0
import pickle
from fractions import Fraction

import av
import numpy as np
import pytest

from flavr_jax.data import sources
from flavr_jax.data.sequences import decode
from flavr_jax.data.sets import folder
from flavr_jax.data.sets.video_clip import VideoClip


def write(path, frames, *, times=None, rgb=True):
    """Write a video, lossless if ``rgb``; B-frames and few key frames reorder it in the file."""
    with av.open(str(path), "w") as container:
        codec, form = ("libx264rgb", "rgb24") if rgb else ("libx264", "yuv420p")
        stream = container.add_stream(codec, rate=30, options={"qp": "0", "g": "12", "bf": "3"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], form
        stream.time_base = stream.codec_context.time_base = Fraction(1, 600)
        for index, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts = 20 * index if times is None else times[index]
            picture.time_base = Fraction(1, 600)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


@pytest.fixture(scope="module")
def frames():
    return np.random.default_rng(0).integers(0, 256, (60, 16, 24, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def video(tmp_path_factory, frames):
    path = tmp_path_factory.mktemp("videos") / "fps60_a.mp4"
    write(path, frames)
    return path


def test_any_frame_is_read_exactly_in_any_order(video, frames):
    order = np.random.default_rng(1).permutation(60)
    clip = VideoClip("a", video)
    assert len(clip) == 60
    for index in [*order, 59, 0]:
        np.testing.assert_array_equal(clip.read(int(index)), frames[index])


def test_frames_at_uneven_times_are_numbered_in_order(tmp_path, frames):
    times = np.cumsum(np.random.default_rng(2).integers(7, 60, 20))
    write(tmp_path / "vfr.mp4", frames[:20], times=times.tolist())
    clip = VideoClip("vfr", tmp_path / "vfr.mp4")
    for index in (13, 2, 19, 7):
        np.testing.assert_array_equal(clip.read(index), frames[index])


def test_frames_shown_at_the_same_moment_are_numbered_one_after_another(tmp_path, frames):
    times = [20 * index - (20 if index > 5 else 0) for index in range(20)]  # 5 and 6 coincide
    write(tmp_path / "twice.mkv", frames[:20], times=times)
    clip = VideoClip("twice", tmp_path / "twice.mkv")
    assert len(clip) == 20
    for index in (12, 6, 5, 19, 7):
        np.testing.assert_array_equal(clip.read(index), frames[index])


def test_a_shot_is_a_clip_of_its_own(video, frames):
    shot = VideoClip("a", video).shot("a-001", 20, 45).shot("a-001-000", 5, 10)
    assert (shot.name, len(shot)) == ("a-001-000", 5)
    np.testing.assert_array_equal(shot.read(2), frames[27])
    with pytest.raises(IndexError, match="5 frames"):
        shot.read(5)


def test_a_clip_travels_to_another_process(video, frames):
    clip = VideoClip("a", video).shot("b", 10, 20)
    clip.read(0)
    copy = pickle.loads(pickle.dumps(clip))
    assert (copy.name, len(copy)) == ("b", 10)
    np.testing.assert_array_equal(copy.read(3), frames[13])


def test_only_a_few_clips_stay_open_and_all_can_be_read_on(video, frames):
    shots = [VideoClip("a", video).shot(f"a-{k}", 10 * k, 10 * k + 10) for k in range(6)]
    for index in (0, 7, 3):
        for number, shot in enumerate(shots):
            np.testing.assert_array_equal(shot.read(index), frames[10 * number + index])
    assert sum(bool(shot._cache) for shot in shots) <= 4


def test_a_frame_is_packed_as_an_image_of_the_same_pixels(video, frames):
    np.testing.assert_array_equal(decode(VideoClip("a", video).encoded(7)), frames[7])


def test_a_file_that_is_no_video_is_named(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"junk" * 100)
    with pytest.raises(ValueError, match=r"a\.mp4 is not a video"):
        VideoClip("a", tmp_path / "a.mp4")


def test_videos_of_a_pattern_are_windows_of_the_protocol(video, frames):
    [sequence] = sources.data_set("fps60-8x").read(video.parent)
    truths = list(sequence.truths())
    assert len(truths) == len(list(sequence.windows())) == 5
    np.testing.assert_array_equal(truths[4], frames[41:48])
    with pytest.raises(FileNotFoundError, match=r"davis_\*\.mp4"):
        sources.data_set("davis-2x").read(video.parent)


def test_adobe_videos_are_those_of_the_list(tmp_path, video, frames):
    videos = tmp_path / "original_high_fps_videos"
    videos.mkdir()
    for name in ("IMG_0028.mov", "IMG_0029.mov"):
        write(videos / name, frames)
    (tmp_path / "test_list.txt").write_text("IMG_0029.mov\n")
    for split, names in (("", ["IMG_0029"]), ("-train", ["IMG_0028", "IMG_0029"])):
        found = sources.data_set(f"adobe240-8x{split}").read(tmp_path)
        assert [each.clip.name for each in found] == names
    (tmp_path / "test_list.txt").write_text("IMG_0001.mov\n")
    with pytest.raises(FileNotFoundError, match="lacks IMG_0001"):
        sources.data_set("adobe240-8x").read(tmp_path)


def test_a_single_video_is_a_folder_of_one(video):
    assert [clip.name for clip in folder.clips(video)] == ["fps60_a"]
