# SPDX-License-Identifier: Apache-2.0
import av
import numpy as np
import pytest

from flavr_jax.data.protocols import PROTOCOLS, read_sequences


def windows(name, n_frames):
    numbers = np.arange(n_frames, dtype=np.uint8)[:, None, None, None]
    frames = np.broadcast_to(numbers, (n_frames, 1, 1, 3))
    return [
        (inputs[:, 0, 0, 0].tolist(), targets[:, 0, 0, 0].tolist())
        for inputs, targets in PROTOCOLS[name].windows(frames)
    ]


def test_davis_asks_for_the_frame_between_every_second_ones():
    assert windows("davis-2x", 25) == [([s, s + 2, s + 4, s + 6], [s + 3]) for s in range(0, 19, 2)]


def test_8x_asks_for_seven_frames_between_every_eighth_ones():
    assert windows("fps60-8x", 73) == [
        ([s, s + 8, s + 16, s + 24], list(range(s + 9, s + 16))) for s in range(0, 49, 8)
    ]


def test_4x_asks_for_three():
    assert windows("fps60-4x", 13) == [([0, 4, 8, 12], [5, 6, 7])]


def test_davis_frames_are_cropped_from_the_centre_and_small_ones_refused(tmp_path):
    def write(name, width, height):
        column = np.arange(width, dtype=np.uint8) // 4
        frame = np.broadcast_to(column[None, :, None], (height, width, 3))
        with av.open(tmp_path / name, "w") as container:
            stream = container.add_stream("libx264rgb", rate=24, options={"qp": "0"})
            stream.width, stream.height, stream.pix_fmt = width, height, "rgb24"
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(picture))
            container.mux(stream.encode())
        return frame

    frame = write("davis_a.mp4", 854, 480)
    [(name, frames)] = read_sequences(tmp_path, PROTOCOLS["davis-2x"])
    assert name == "davis_a"
    np.testing.assert_array_equal(frames[0], frame[:, 7:847])
    write("davis_b.mp4", 640, 480)
    with pytest.raises(ValueError, match=r"davis_b\.mp4 is 640×480"):
        list(read_sequences(tmp_path, PROTOCOLS["davis-2x"]))


def test_a_folder_without_sequences_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="davis"):
        list(read_sequences(tmp_path, PROTOCOLS["davis-2x"]))
