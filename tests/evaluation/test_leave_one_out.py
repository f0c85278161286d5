# SPDX-License-Identifier: Apache-2.0
"""A report without a reference: frames that are left out are made again, scored, and shown."""

from __future__ import annotations

import re
from fractions import Fraction

import numpy as np
import pytest

from flavr_jax.config import ModelConfig
from flavr_jax.evaluation import leave_one_out, page
from flavr_jax.video.frames import TimedFrame


class Averaging:
    """A network that mixes the two middle frames of a window; it records what it is given."""

    config, boundary = ModelConfig(width=1, n_outputs=1), "mirror"
    factor, ahead = 2, 1

    def __init__(self):
        self.windows = []

    def passes(self, factor):
        return [2]

    def upload(self, picture):
        return np.asarray(picture)

    def between(self, frames, factor, batch=1):
        self.windows.append([int(frame[0, 0, 0]) for frame in frames])
        mixed = (frames[1].astype(int) + frames[2]) // 2
        return mixed.astype(frames[1].dtype)[None, None]


def clip(levels, kind=np.uint8):
    """Frames of a pattern that gets lighter; the pattern keeps cut detection quiet."""
    pattern = np.random.default_rng(0).integers(0, 60, (24, 32, 3))
    pattern[0, 0] = 0
    for number, level in enumerate(levels):
        pixels = np.minimum(pattern + level, 255).astype(kind) * (1 if kind == np.uint8 else 257)
        yield TimedFrame(pixels.astype(kind), Fraction(number, 10), Fraction(1, 10))


def test_the_left_out_frame_is_made_from_every_second_frame_around_it():
    network = Averaging()
    found = list(leave_one_out.moments(clip(range(10, 100, 10)), network))
    assert network.windows == [[10, 30, 50, 70], [20, 40, 60, 80], [30, 50, 70, 90]]
    assert [each.pts for each in found] == [Fraction(n, 10) for n in (3, 4, 5)]
    assert [each.scores["PSNR"] for each in found] == [99.0] * 3  # the clip changes evenly
    assert found[0].average == 99.0
    assert [int(picture[0, 0, 0]) for picture in found[0].pictures] == [30, 40, 40, 50]


def test_scores_are_those_of_the_formula():
    levels = [10, 20, 30, 44, 50, 60, 70]  # the middle frame is 4 levels lighter than the mean
    (moment,) = leave_one_out.moments(clip(levels), Averaging())
    assert moment.scores["PSNR"] == pytest.approx(20 * np.log10(255 / 4), abs=1e-3)
    assert 0.5 < moment.scores["SSIM"] < 1


def test_16_bits_are_scored_as_8():
    (moment,) = leave_one_out.moments(clip(range(10, 80, 10), np.uint16), Averaging())
    assert moment.scores["PSNR"] > 45
    assert moment.pictures[1].dtype == np.uint8


def test_linear_light_is_scored_as_it_is_shown():
    # ACEScct of twice white, which is shown as white, and of what sRGB shows as half of it.
    bright, half = (np.log2([2.0, 0.2140]) + 9.72) / 17.52
    levels = [bright, bright, bright, half, bright, bright, bright]
    light = [np.full((24, 32, 3), round(65535 * level), np.uint16) for level in levels]
    frames = [TimedFrame(each, Fraction(n, 10), Fraction(1, 10)) for n, each in enumerate(light)]
    (moment,) = leave_one_out.moments(frames, Averaging(), linear=True)
    assert moment.scores["PSNR"] == pytest.approx(20 * np.log10(2), abs=0.1)
    assert [int(picture[0, 0, 0]) for picture in moment.pictures] == [255, 255, 127, 255]


def test_every_other_frame_can_be_skipped():
    found = leave_one_out.moments(clip(range(10, 130, 10)), Averaging(), every=3)
    assert [each.pts for each in found] == [Fraction(3, 10), Fraction(6, 10)]


def scene(seed):
    tiles = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), np.uint8)
    return tiles.repeat(8, axis=0).repeat(8, axis=1)


def test_no_window_crosses_a_cut_and_shots_are_scored_apart():
    pictures = [scene(1)] * 8 + [scene(2)] * 9 + [scene(3)] * 5
    frames = [TimedFrame(p, Fraction(n), Fraction(1)) for n, p in enumerate(pictures)]
    found = list(leave_one_out.moments(frames, Averaging()))
    assert [int(each.pts) for each in found] == [3, 4, 11, 12, 13]
    rows = leave_one_out.shots(found)
    assert [(row.number, row.start, row.count) for row in rows] == [(0, 3, 2), (1, 11, 3)]
    assert all(row.means["PSNR"] == row.worst["PSNR"] == 99.0 for row in rows)


def test_the_page_needs_nothing_else_and_shows_the_weakest_first(tmp_path):
    levels = [10, 20, 30, 40, 50, 60, 79, 80, 90, 100, 110, 120, 130]
    found = list(leave_one_out.moments(clip(levels), Averaging()))
    page.write_page(tmp_path / "a.html", "<b>\udcff.mp4", found, ["a & b"])
    text = (tmp_path / "a.html").read_text()
    assert r"<h1>&lt;b&gt;\udcff.mp4</h1>" in text  # the name has a byte that is no UTF-8
    assert "a &amp; b" in text
    assert not re.search(r"https?://|<script|<link", text)
    sources = re.findall(r'<img [^>]*src="([^"]*)"', text)
    assert len(sources) == 6 * 5
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    assert re.findall(r"<h3>(\S+) s, shot 1", text)[0] == "0.600"
    assert text.count("<circle") == len(found)


def test_a_clip_without_context_is_explained(tmp_path):
    with pytest.raises(ValueError, match="Use a longer clip"):
        page.write_page(tmp_path / "a.html", "short", [], [])
    assert not (tmp_path / "a.html").exists()


def moment(number, psnr, *, shot=0, **more):
    grey = np.full((6, 8, 3), 128, np.uint8)
    scores = {"PSNR": psnr, "SSIM": 0.5, **more}
    return leave_one_out.Moment(Fraction(number, 10), shot, scores, psnr - 1, (grey,) * 4)


def text_of(path, found, notes=()):
    page.write_page(path / "a.html", "clip.mp4", found, list(notes))
    return (path / "a.html").read_text()


def test_a_shot_has_its_mean_and_its_worst_frame_and_the_highest_lpips():
    found = [
        moment(0, 30.0, LPIPS=0.1), moment(1, 40.0, LPIPS=0.3), moment(2, 20.0, shot=1, LPIPS=0.2),
    ]  # fmt: skip
    first, second = leave_one_out.shots(found)
    assert (first.means["PSNR"], first.worst["PSNR"], first.average) == (35.0, 30.0, 34.0)
    assert first.means["LPIPS"] == pytest.approx(0.2)
    assert first.worst["LPIPS"] == 0.3
    assert (second.number, second.start, second.count) == (1, Fraction(1, 5), 1)


def test_the_weakest_moments_are_few_and_in_order():
    found = [moment(n, float(psnr)) for n, psnr in enumerate([30, 25, 40, 22, 33, 28, 50, 21, 45])]
    assert [each.scores["PSNR"] for each in page.weakest(found)] == [21, 22, 25, 28, 30, 33]
    assert page.weakest(found[:2]) == [found[1], found[0]]


@pytest.mark.parametrize("values", [[30.0], [30.0, 30.0], [20.0, 40.0, 30.0]])
def test_a_plot_has_finite_points_inside_its_frame(values, tmp_path):
    text = text_of(tmp_path, [moment(n, value) for n, value in enumerate(values)])
    points = re.findall(r'<circle cx="([^"]+)" cy="([^"]+)"', text)
    assert len(points) == len(values)
    for x, y in points:
        assert 70 <= float(x) <= 880
        assert 15 <= float(y) <= 125
    heights = [float(y) for _, y in points]
    assert np.argsort(heights).tolist() == np.argsort(-np.array(values), kind="stable").tolist()


def test_shots_are_lines_of_their_own_with_a_row_each(tmp_path):
    found = [moment(n, 30.0 + n, shot=n // 3) for n in range(9)]
    text = text_of(tmp_path, found)
    assert text.count("<polyline") == 3
    assert text.count("<tr>") == 1 + 3
    assert "<td>31.00 dB</td><td>30.00 dB</td>" in text
    assert "<td>0.5000</td>" in text


def test_what_users_write_is_no_markup(tmp_path):
    text = text_of(tmp_path, [moment(0, 30.0)], ['<img src="x">', "a & b"])
    assert '<img src="x">' not in text
    assert "<p>&lt;img src=&quot;x&quot;&gt;</p><p>a &amp; b</p>" in text
