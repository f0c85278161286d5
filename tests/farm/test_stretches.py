# SPDX-License-Identifier: Apache-2.0
"""A file made of stretches is that of one run, even for a network that rounds by its batch."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from flavr_jax.config import ModelConfig
from flavr_jax.farm import plan, worker
from flavr_jax.farm.clip import Clip
from flavr_jax.inference.computation import Computation
from flavr_jax.inference.interpolator import Interpolator
from flavr_jax.inference.options import Options
from flavr_jax.inference.planner import Plan
from flavr_jax.inference.tiles import WHOLE
from flavr_jax.reading.inputs import Input
from flavr_jax.video.files.encoders import Encoding
from flavr_jax.video.files.writer import VideoWriter
from flavr_jax.video.frames import ClipInfo, TimedFrame
from flavr_jax.video.journal.journal import Journal
from flavr_jax.video.pixels.colour import Colour
from flavr_jax.video.pixels.picture import resident
from tests.commands.clips import write_clip, write_folder, write_tone

RATE = 10
CUTS = (16, 33)
FRAMES = 48


class RoundsByBatch(Interpolator):
    """A network whose frames depend on their window, and on their place in a batch and its size."""

    ahead = 1
    factor = 4
    concurrency = 1

    def __init__(self):
        self.boundary, self.precision, self.runs_on = "duplicate", "fp32", "a test"
        self.config = ModelConfig(width=1, n_outputs=3)
        self.tiling = WHOLE
        self.intervals = 0

    def fit(self, height, width, factor, resources, batch):
        return Plan(batch or 1, WHOLE, memory=0, limit=0)

    def passes(self, factor):
        return {1: [], 2: [2], 4: [4], 16: [4, 4]}[factor]

    def upload(self, picture):
        return resident(picture)

    def between(self, frames, factor, batch=1):
        frames = [np.asarray(frame.pixels).astype(int) for frame in frames]
        many = len(frames) - 3
        self.intervals += many
        made = []
        for place in range(many):
            before, first, second, after = frames[place : place + 4]
            mixed = (before + 3 * first + 3 * second + after) // 8 + 5 * place + 11 * many
            made.append([(mixed + 17 * part).clip(0, 255) for part in range(1, factor)])
        pixels = jnp.array(made, jnp.uint8)
        return Computation(pixels, jnp.ones(many, bool), "fp32")


@pytest.fixture
def network(monkeypatch):
    made = RoundsByBatch()
    monkeypatch.setattr(worker, "_network", lambda clip: made)
    return made


@pytest.fixture(scope="module")
def footage(tmp_path_factory):
    """Three shots that move, in which every third picture is shown twice, with sound."""
    folder = tmp_path_factory.mktemp("footage")
    info = ClipInfo(32, 24, Fraction(RATE), Fraction(1, RATE), None, colour=Colour(1, 1, 1, 1))
    x, y = np.arange(32)[None, :, None], np.arange(24)[:, None, None]
    with VideoWriter(folder / "in.mp4", info, others=write_tone(folder / "tone.wav")) as sink:
        for number in range(FRAMES):
            shot = sum(number >= cut for cut in CUTS)
            phase = np.random.default_rng(shot).uniform(1, 9, 3)
            moved = number - number // 3
            wave = np.sin(x * phase[0] / 9 - moved / 3 + y * phase[1] / 9) * np.cos(y / phase[2])
            pixels = (127 + 90 * wave * np.array([1.0, 0.5, -1.0])).astype(np.uint8)
            sink.write(TimedFrame(pixels, Fraction(number, RATE), Fraction(1, RATE)))
    return folder / "in.mp4"


def assembled(clip, most=1):
    """Render a clip in stretches, the last first, and join them; return the stretches."""
    setup, _ = worker.prepare(clip)
    assert setup.splittable
    found, _ = worker.scan(clip, setup)
    journal = Journal(Path(clip.output), setup.job(clip))
    segments = -(-len(found.times) // clip.segment)
    parts = list(plan.stretches(clip, setup, found, journal.missing(segments), most))
    for stretch in reversed(parts):
        worker.render(clip, setup, stretch, journal.folder)
    journal.close(complete=False)
    worker.join(clip, setup, found.times)
    return parts


MOTIONS = {
    "one pass": Options(4),
    "batches": Options(4, batch=3),
    "two passes": Options(16, batch=2),
    "exact times": Options(fps=Fraction(23), exact_times=True, batch=3),
    "fewer frames": Options(fps=Fraction(7), batch=2),
    "repeats in slow motion": Options(4, dedup=True, slow_motion=True, batch=3),
    "blended cuts": Options(fps=Fraction(30), cut="blend", batch=3),
    "no cuts": Options(4, cut="ignore", batch=3),
}


@pytest.mark.parametrize("motion", MOTIONS.values(), ids=MOTIONS)
def test_stretches_make_the_file_of_one_run(network, footage, tmp_path, motion):
    # At 30 frames/s, the first cut's two blends are frames 47 and 48.
    segment = 47 if motion.cut == "blend" else 29
    one = Clip(footage, str(tmp_path / "one" / "out.mp4"), motion, segment=segment)
    summary, damage = worker.whole(one, worker.prepare(one)[0])[0]
    assert damage is None
    assert summary.cuts == (0 if motion.cut == "ignore" else len(CUTS))
    many = dataclasses.replace(one, output=str(tmp_path / "many" / "out.mp4"))
    assert len(assembled(many)) > 1
    assert Path(many.output).read_bytes() == Path(one.output).read_bytes()
    assert [path.name for path in Path(many.output).parent.iterdir()] == ["out.mp4"]


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("out.mkv", {"source": Input(range="0.55-4")}),
        ("out.mov", {"encoding": Encoding(codec="prores")}),
        ("out.mkv", {"encoding": Encoding(codec="ffv1")}),
        ("out.mp4", {"segment": (47 * 4 + 1) // 3}),
        ("out.mp4", {"segment": 5000}),
    ],
    ids=["range", "prores", "ffv1", "whole segments", "one segment"],
)
def test_formats_and_ranges_make_the_file_of_one_run(network, footage, tmp_path, name, changes):
    one = Clip(footage, str(tmp_path / "one" / name), Options(4), **{"segment": 50, **changes})
    worker.whole(one, worker.prepare(one)[0])
    many = dataclasses.replace(one, output=str(tmp_path / "many" / name))
    assembled(many)
    assert Path(many.output).read_bytes() == Path(one.output).read_bytes()


def test_folders_of_images_make_the_file_of_one_run(network, tmp_path):
    folder = write_folder(tmp_path / "images", 30)
    one = Clip(folder, str(tmp_path / "one" / "out.mp4"), Options(4, batch=2), segment=20)
    worker.whole(one, worker.prepare(one)[0])
    many = dataclasses.replace(one, output=str(tmp_path / "many" / "out.mp4"))
    assert len(assembled(many)) == 6
    assert Path(many.output).read_bytes() == Path(one.output).read_bytes()


def test_the_network_computes_hardly_more_than_in_one_run(network, footage, tmp_path):
    one = Clip(footage, str(tmp_path / "one.mp4"), Options(4, batch=3), segment=40)
    worker.whole(one, worker.prepare(one)[0])
    whole, network.intervals = network.intervals, 0
    parts = assembled(dataclasses.replace(one, output=str(tmp_path / "many.mp4")), most=1)
    # A batch that two segments share is computed for both.
    assert network.intervals <= whole + 3 * (len(parts) - 1)


def test_a_stretch_reads_little_before_it(network, footage, tmp_path):
    clip = Clip(footage, str(tmp_path / "out.mp4"), Options(4), segment=40)
    setup = worker.prepare(clip)[0]
    found = worker.scan(clip, setup)[0]
    for stretch in plan.stretches(clip, setup, found, range(5), 1):
        assert len(stretch.wishes) <= 40 / 4 + 3 * setup.margin
    only = [part.first for part in plan.stretches(clip, setup, found, [0, 1, 2, 4], 2)]
    assert only == [0, 2, 4]


def test_a_worker_that_would_render_otherwise_refuses(network, footage, tmp_path):
    clip = Clip(footage, str(tmp_path / "out.mp4"), Options(4), segment=40)
    setup = worker.prepare(clip)[0]
    network.runs_on = "another GPU"
    with pytest.raises(ValueError, match="differ in network: fp32, another GPU here"):
        worker.whole(clip, setup)


def test_an_input_that_lost_frames_meanwhile_is_noticed(network, tmp_path):
    path = write_clip(tmp_path / "in.mp4", 12)
    clip = Clip(path, str(tmp_path / "out.mp4"), Options(4), segment=20)
    setup = worker.prepare(clip)[0]
    found = worker.scan(clip, setup)[0]
    path.unlink()
    write_clip(path, 7)
    setup = dataclasses.replace(setup, facts=worker.prepare(clip)[0].facts)
    *_, last = plan.stretches(clip, setup, found, range(3), 1)
    (tmp_path / "journal").mkdir()
    with pytest.raises(ValueError, match="has no frame at"):
        worker.render(clip, setup, last, tmp_path / "journal")
    assert not list((tmp_path / "journal").iterdir())


def test_what_cannot_be_divided_is_known_beforehand(network, footage, tmp_path):
    for name, source in [("out.mp4", Input(sandbox=True)), ("out.avi", Input()), ("out/", Input())]:
        output = str(tmp_path / name) + "/" * name.endswith("/")
        clip = Clip(footage, output, Options(4), source=source)
        assert not worker.prepare(clip)[0].splittable
    with pytest.raises(ValueError, match="crf"):
        worker.prepare(Clip(footage, "out.mp4", Options(4), encoding=Encoding(crf=60)))
