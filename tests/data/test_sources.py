# SPDX-License-Identifier: Apache-2.0
"""Each data set is written in its official layout, with few small frames, and read back."""

from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pytest

from flavr_jax.data import sources
from flavr_jax.data.sequences import ImageClip, Sequence, decode, regular
from flavr_jax.data.sets import folder


class Writer:
    """Writes frames of random pixels and remembers them by their path below the root."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.frames: dict[str, np.ndarray] = {}
        self._rng = np.random.default_rng(0)

    def image(self, path: str, size: tuple[int, int] = (12, 16)) -> None:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        tile = self._rng.integers(0, 256, (7, 9, 3), dtype=np.uint8)  # repeated: quick to compress
        frame = np.tile(tile, (size[0] // 7 + 1, size[1] // 9 + 1, 1))[: size[0], : size[1]]
        imageio.imwrite(target, frame)
        self.frames[path] = imageio.imread(target)  # JPEG is lossy: what counts is the file

    def text(self, path: str, content: str) -> None:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content)


def write_vimeo90k(w):
    for name in ("00001/0001", "00001/0002", "00078/0389"):
        for number in range(1, 8):
            w.image(f"sequences/{name}/im{number}.png")
    w.text("sep_trainlist.txt", "00001/0001\n00078/0389\n")
    w.text("sep_testlist.txt", "00001/0002\n")


def write_gopro(w):
    for split, name in (("train", "GOPR0372_07_00"), ("test", "GOPR0384_11_00")):
        for number in range(30):
            w.image(f"{split}/{name}/{number + 47:06d}.png", (512, 514))


def write_adobe240(w):
    for split, name in (("train", "IMG_0001"), ("test", "IMG_0002")):
        for number in range(25):
            w.image(f"{split}/{name}/{number}.png", (512, 512))


def write_davis(w):
    for name in ("blackswan", "bear"):
        for number in range(9):
            w.image(f"JPEGImages/480p/{name}/{number:05d}.jpg", (480, 854))
    w.text("ImageSets/2016/val.txt", "blackswan\n")


def write_ucf101(w):
    for name in ("1", "2", "10"):
        for frame in ("0", "1", "t", "2", "3"):
            w.image(f"{name}/frame{frame}.png", (240, 320))


def write_middlebury(w):
    for number in range(7, 15):
        w.image(f"other-data/Urban2/frame{number:02d}.png")
        w.image(f"eval-data/Urban/frame{number:02d}.png")
    for number in (10, 11):
        w.image(f"other-data/Venus/frame{number:02d}.png")
    for name in ("Urban2", "Venus"):
        w.image(f"other-gt-interp/{name}/frame10i11.png")


def write_snu_film(w):
    for number in {26 + shift * near for shift in (-3, -1, 0, 1, 3) for near in (1, 2, 4, 8)}:
        w.image(f"test/GOPRO_test/GOPR0384_11_00/{number:06d}.png", (720, 720))
    for number in range(1, 8):
        w.image(f"test/YouTube_test/0000/{number:05d}.png", (720, 720))
    for level, near in (("easy", 1), ("medium", 2), ("hard", 4), ("extreme", 8)):
        gopro = [f"data/SNU-FILM/test/GOPRO_test/GOPR0384_11_00/{n:06d}.png" for n in
                 (26 - near, 26, 26 + near)]  # fmt: skip
        tube = [f"data/SNU-FILM/test/YouTube_test/0000/{n:05d}.png" for n in (1, 1 + near, 2)]
        w.text(f"test-{level}.txt", f"{' '.join(gopro)}\n{' '.join(tube)}\n")


def write_xtest(w):
    for number in range(33):
        w.image(f"test/Type2/TEST06_001_f0273/{number:04d}.png")


def write_folder(w):
    for number in range(1, 12):
        w.image(f"walk/{number}.png")  # not padded with zeros: 10 comes after 9
    w.text("notes.txt", "not a clip")


# Which files a protocol gives and asks for, written by hand from the papers' descriptions.
SEPTUPLET = "sequences/00001/0002/im{}.png"
GOPRO = "test/GOPR0384_11_00/{:06d}.png"
FILM = "test/GOPRO_test/GOPR0384_11_00/{:06d}.png"
CASES = {
    "vimeo90k": (write_vimeo90k, [([SEPTUPLET.format(i) for i in (1, 3, 5, 7)],
                                   [SEPTUPLET.format(4)])]),
    "gopro-4x": (write_gopro, [([GOPRO.format(47 + s + i) for i in (0, 4, 8, 12)],
                                [GOPRO.format(47 + s + i) for i in (5, 6, 7)])
                               for s in (0, 4, 8, 12, 16)]),
    "gopro-8x": (write_gopro, [([GOPRO.format(47 + i) for i in (0, 8, 16, 24)],
                                [GOPRO.format(47 + i) for i in range(9, 16)])]),
    "adobe240-8x": (write_adobe240, [([f"test/IMG_0002/{i}.png" for i in (0, 8, 16, 24)],
                                      [f"test/IMG_0002/{i}.png" for i in range(9, 16)])]),
    "davis": (write_davis, [([f"JPEGImages/480p/blackswan/{s + i:05d}.jpg" for i in (0, 2, 4, 6)],
                             [f"JPEGImages/480p/blackswan/{s + 3:05d}.jpg"]) for s in (0, 2)]),
    "ucf101": (write_ucf101, [([f"{n}/frame{i}.png" for i in range(4)], [f"{n}/framet.png"])
                              for n in (1, 2, 10)]),
    "middlebury-other": (write_middlebury, [([f"other-data/Urban2/frame{i:02d}.png" for i in
                                              (9, 10, 11, 12)],
                                             ["other-gt-interp/Urban2/frame10i11.png"])]),
    "middlebury-evaluation": (write_middlebury, [([f"eval-data/Urban/frame{i:02d}.png" for i in
                                                   (9, 10, 11, 12)], None)]),
    **{f"snu-film-{level}": (write_snu_film, [([FILM.format(26 + i) for i in
                                                (-3 * near, -near, near, 3 * near)],
                                               [FILM.format(26)])])
       for level, near in (("easy", 1), ("medium", 2), ("hard", 4), ("extreme", 8))},
    "xtest": (write_xtest, [([f"test/Type2/TEST06_001_f0273/{i:04d}.png" for i in (32, 0, 32, 0)],
                             [f"test/Type2/TEST06_001_f0273/{i:04d}.png"
                              for i in (4, 8, 12, 16, 20, 24, 28)])]),
    "folder-2x": (write_folder, [([f"walk/{s + i}.png" for i in (1, 3, 5, 7)],
                                  [f"walk/{s + 4}.png"]) for s in (0, 2, 4)]),
}  # fmt: skip
CROPS = {"gopro": (512, 512), "adobe": (512, 512), "davis": (480, 840), "ucf10": (224, 224),
         "snu-f": (720, 720)}  # fmt: skip


def cropped(frame, name):
    height, width = CROPS.get(name[:5], frame.shape[:2])
    top, left = (frame.shape[0] - height) // 2, (frame.shape[1] - width) // 2
    return frame[top : top + height, left : left + width]


@pytest.mark.parametrize("name", CASES)
def test_the_official_layout_is_read_bit_exact_in_the_protocols_windows(name, tmp_path):
    write, windows = CASES[name]
    writer = Writer(tmp_path)
    write(writer)
    sequences = sources.data_set(name).read(tmp_path)
    inputs = [window for sequence in sequences for window in sequence.windows()]
    truths = [truth for sequence in sequences for truth in sequence.truths()]
    assert len(inputs) == len(windows)
    for found, (expected, _) in zip(inputs, windows, strict=True):
        frames = np.stack([cropped(writer.frames[path], name) for path in expected])
        np.testing.assert_array_equal(found, frames)
    for found, expected in zip(truths, [t for _, t in windows if t], strict=True):
        frames = np.stack([cropped(writer.frames[path], name) for path in expected])
        np.testing.assert_array_equal(found, frames)


@pytest.mark.parametrize("name", sources.SOURCES)
def test_a_folder_of_another_layout_is_refused_with_the_layout(name, tmp_path):
    (tmp_path / "read.me").write_text("")
    with pytest.raises(FileNotFoundError, match=r"layout|holds no clips"):
        sources.data_set(name).read(tmp_path)


def test_training_splits_are_those_of_the_official_lists(tmp_path):
    write_vimeo90k(Writer(tmp_path))
    read = sources.data_set("vimeo90k-train").read(tmp_path)
    assert [sequence.clip.name for sequence in read] == ["00001/0001", "00078/0389"]


def test_the_davis_release_of_2016_lists_images_and_masks(tmp_path):
    write_davis(Writer(tmp_path))
    (tmp_path / "ImageSets/2016/val.txt").unlink()
    lines = "/JPEGImages/480p/bear/00000.jpg /Annotations/480p/bear/00000.png\n" * 3
    Writer(tmp_path).text("ImageSets/480p/val.txt", lines)
    assert [each.clip.name for each in sources.data_set("davis").read(tmp_path)] == ["bear"]


def test_film_triplets_without_outer_inputs_are_left_out_and_counted(tmp_path, caplog):
    write_snu_film(Writer(tmp_path))
    assert len(sources.data_set("snu-film-easy").read(tmp_path)) == 1
    assert "1 of 2" in caplog.text


def test_an_unknown_data_set_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'vimeo'.*vimeo90k, vimeo90k-train"):
        sources.data_set("vimeo")


def test_frames_smaller_than_the_crop_are_refused(tmp_path):
    for number in range(7):
        Writer(tmp_path).image(f"a/{number}.png", (480, 640))
    [sequence] = sources.data_set("davis").read(tmp_path)
    with pytest.raises(ValueError, match=r"a is 640×480, but 840×480"):
        next(sequence.windows())


@pytest.mark.parametrize(
    ("factor", "n_frames", "windows"),
    [
        (2, 25, [([s, s + 2, s + 4, s + 6], [s + 3]) for s in range(0, 19, 2)]),
        (8, 73, [([s, s + 8, s + 16, s + 24], [*range(s + 9, s + 16)]) for s in range(0, 49, 8)]),
        (4, 13, [([0, 4, 8, 12], [5, 6, 7])]),
        (4, 12, []),
    ],
)  # fmt: skip
def test_windows_begin_at_every_input_that_has_three_more(factor, n_frames, windows):
    sequence = regular(ImageClip("a", (Path("a.png"),) * n_frames), factor)
    found = [
        (list(sequence.inputs[k : k + 4]), list(targets))
        for k, targets in enumerate(sequence.targets)
    ]
    assert found == windows
    assert len(sequence) == len(windows)


def test_an_input_that_windows_share_is_read_once():
    reads = []

    class Counting:
        name = "counting"

        def __len__(self):
            return 13

        def read(self, index):
            reads.append(index)
            return np.zeros((4, 4, 3), np.uint8)

        def encoded(self, index):
            raise NotImplementedError

    assert len(list(regular(Counting(), 2).windows())) == 4
    assert reads == [0, 2, 4, 6, 8, 10, 12]


def test_images_without_eight_bit_rgb_are_converted_or_refused(tmp_path):
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    imageio.imwrite(tmp_path / "grey.png", grey)
    found = decode((tmp_path / "grey.png").read_bytes())
    np.testing.assert_array_equal(found, np.repeat(grey[..., None], 3, axis=2))
    imageio.imwrite(tmp_path / "deep.png", grey.astype(np.uint16) * 257)
    with pytest.raises(ValueError, match=r"deep\.png has more than 8 bits"):
        ImageClip("deep", (tmp_path / "deep.png",)).read(0)
    with pytest.raises(ValueError, match="cannot be read as an image"):
        decode(b"junk")


def test_raw_pixels_are_read_from_a_ppm_without_a_decoder():
    frame = np.random.default_rng(0).integers(0, 256, (3, 5, 3), dtype=np.uint8)
    frame[0, 0] = 10  # a line feed, which must not be taken for the end of the header
    np.testing.assert_array_equal(decode(b"P6\n5 3\n255\n" + frame.tobytes()), frame)


def test_shots_end_where_cuts_are_found(tmp_path):
    writer = Writer(tmp_path)
    for number in range(20):
        writer.image(f"clip/{number:02d}.png")
    shots = folder.read(tmp_path, 2, find_cuts=lambda frames: [sum(1 for _ in frames) - 8])
    assert [(each.clip.name, len(each.clip)) for each in shots] == [
        ("clip-000", 12), ("clip-001", 8),
    ]  # fmt: skip
    np.testing.assert_array_equal(shots[1].read(0), writer.frames["clip/12.png"])


def test_a_set_whose_clips_are_all_too_short_is_refused(tmp_path):
    for number in range(6):
        Writer(tmp_path).image(f"clip/{number}.png")
    with pytest.raises(FileNotFoundError, match="no shot of 7 frames"):
        folder.read(tmp_path, 2)


def test_sequences_are_values():
    clip = ImageClip("a", ())
    assert Sequence(clip, 2, (0, 1), ()) == Sequence(clip, 2, (0, 1), ())
