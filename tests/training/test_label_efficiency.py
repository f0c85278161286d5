# SPDX-License-Identifier: Apache-2.0
"""The study of pretraining: its windows, its training loop, its order, its table."""

import dataclasses
import json
import threading
from concurrent.futures import Future, ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flavr_jax.commands import label_efficiency as command
from flavr_jax.data.synthetic import actions
from flavr_jax.data.synthetic.actions import LabelledSet
from flavr_jax.training import label_efficiency
from flavr_jax.training.label_efficiency import Pretrained, Programs, Result, Study, StudyConfig
from flavr_jax.training.tasks import Classification
from tests.training.toys import Line

SIZES = StudyConfig(batch_size=8, compute="float32")


@dataclasses.dataclass(frozen=True)
class Mean(Line):
    """Learns the mean of all target frames; a task of one parameter."""

    def loss(self, params, batch, key):
        return jnp.square(params["mean"] - batch.targets.mean()), {}


def clips(count, frames=8):
    """Clips of 8×8 pixels whose frames are all of the value 10 × clip + frame."""
    values = 10 * np.arange(count)[:, None] + np.arange(frames)
    shape = (count, frames, 8, 8, 3)
    pixels = np.broadcast_to(values[..., None, None, None], shape).astype(np.uint8)
    return LabelledSet(jnp.asarray(pixels), jnp.arange(count) % 20)


def test_windows_have_every_second_frame_and_the_one_in_the_middle():
    batch = label_efficiency.interpolation_batch(clips(3).clips, np.array([2, 0]))
    np.testing.assert_allclose(255 * batch.inputs[0, :, 0, 0, 0], [20, 22, 24, 26], rtol=1e-5)
    np.testing.assert_allclose(255 * batch.targets[1, :, 0, 0, 0], [3], rtol=1e-5)


def test_training_uses_only_the_clips_that_are_known():
    config = dataclasses.replace(SIZES, optimizer="adam", weight_decay=0.0)
    start = {"mean": jnp.zeros(())}
    for known, mean in ((1, 3 / 255), (3, 13 / 255)):
        training = label_efficiency._Training.of(200, known, 0.05, seed=0)
        found = label_efficiency._fit(Mean(), config, start, clips(20), training)
        assert float(found["mean"]) == pytest.approx(mean, abs=0.15 * mean + 2e-3)


def test_no_steps_leave_the_parameters():
    start = {"mean": jnp.full((), 0.25)}
    training = label_efficiency._Training.of(0, 20, 0.1, seed=0)
    found = label_efficiency._fit(Mean(), SIZES, start, clips(20), training)
    assert float(found["mean"]) == 0.25


class Counted(Study):
    """A study that only notes what it was asked for; pretraining is compiled after ``ready``."""

    def __init__(self, ready):
        self.config = StudyConfig(labelled=4000, learning_rates=(1.0, 2.0))
        self.calls, self.ready = [], ready
        self.programs = Programs(Future(), Future())
        self.programs.classification.set_result(None)

    def pretrain(self, encoder):
        self.calls.append("pretraining")
        return Pretrained({}, 30.0, 1.0)

    def finetune(self, encoder, pretrained, labels, seed, rate):
        self.calls.append((pretrained is not None, labels, seed, rate))
        if len(self.calls) == self.ready:
            self.programs.interpolation.set_result(None)
        # A random start learns best at 2, a pretrained one at 1.
        validation = 0.5 - abs(rate - (2 - (pretrained is not None)))
        return Result(encoder, pretrained is not None, labels, seed, rate, validation, 0.5, 1.0)


def test_random_starts_are_trained_while_the_other_program_is_compiled():
    study = Counted(ready=4)
    found = list(study.results("r3d", study.programs, (0.01, 1.0), 2))
    assert study.calls == [
        (False, 4000, 0, 1.0), (False, 4000, 0, 2.0), (False, 40, 0, 2.0), (False, 4000, 1, 2.0),
        "pretraining", (True, 4000, 0, 1.0), (True, 4000, 0, 2.0), (True, 40, 0, 1.0),
        (True, 4000, 1, 1.0), (False, 40, 1, 2.0), (True, 40, 1, 1.0),
    ]  # fmt: skip
    assert [type(each) for each in found].index(Pretrained) == 3
    # Only the better of two learning rates counts, where both were tried.
    assert [each.learning_rate for each in found if isinstance(each, Result)] == [
        2.0, 2.0, 2.0, 1.0, 1.0, 1.0, 2.0, 1.0
    ]  # fmt: skip


def test_a_study_waits_for_the_program_of_pretraining_when_nothing_else_is_left():
    study = Counted(ready=3)
    calls = list(study.results("r3d", study.programs, (0.05, 0.1), 1))
    assert [isinstance(each, Pretrained) for each in calls] == [False, False, True, False, False]
    assert all(each[1] % len(actions.CLASSES) == 0 for each in study.calls[:2])


def known(*cells):
    """Results of cells (pretrained, labels, seed), with the learning rate that is best for each."""
    return [Result("r3d", start, *cell, 2.0 - start, 0.5, 0.5, 1.0) for start, *cell in cells]


def test_only_missing_classifiers_are_trained_with_the_learning_rates_found_before():
    study = Counted(ready=1)
    before = known((False, 4000, 0), (False, 40, 0), (True, 4000, 0), (False, 4000, 1))
    list(study.results("r3d", study.programs, (0.01, 1.0), 2, before))
    assert study.calls == [
        (False, 40, 1, 2.0), "pretraining", (True, 40, 0, 1.0), (True, 4000, 1, 1.0),
        (True, 40, 1, 1.0),
    ]  # fmt: skip


def test_nothing_is_pretrained_if_no_classifier_needs_it():
    study = Counted(ready=0)
    list(study.results("r3d", study.programs, (0.01,), 1, known((True, 40, 0))))
    assert study.calls == [(False, 40, 0, 1.0), (False, 40, 0, 2.0)]


@pytest.fixture
def values():
    rows = [
        Result("r3d", pretrained, labels, seed, 2e-3, 0.0, accuracy + 0.02 * seed, 1.5)._asdict()
        for pretrained, labels, accuracy in (
            (False, 40, 0.1), (False, 400, 0.3), (True, 40, 0.2), (True, 400, 0.6)
        )
        for seed in range(2)
    ]  # fmt: skip
    pretraining = {"r3d": {"psnr": 25.123, "seconds": 9.0}, "mc3": {"psnr": 24.0, "seconds": 8.0}}
    return {"results": rows, "pretraining": pretraining, "psnr of averaged frames": 21.5}


def test_the_table_has_means_and_deviations_over_seeds(values):
    lines = command.table(values).splitlines()
    assert lines[0] == "averaging two frames: 21.50 dB"
    assert lines[2].endswith("| 40 labels | 400 labels | seconds |")
    assert lines[4] == "| r3d | 25.12 | random | 11.0 ± 1.0 | 31.0 ± 1.0 | 1.50 |"
    assert lines[5] == "| r3d | 25.12 | pretrained | 21.0 ± 1.0 | 61.0 ± 1.0 | 1.50 |"
    assert "| mc3 | 24.00 | random | — | — |" in lines[6]  # not reached in time


def test_an_encoder_that_is_not_pretrained_yet_has_a_row(values):
    del values["pretraining"]["r3d"]
    assert "| r3d | — | random | 11.0 ± 1.0 |" in command.table(values)


def test_clips_are_drawn_while_programs_are_compiled(monkeypatch):
    drawn = threading.Event()

    def draw(key, count, config):
        assert drawn.wait(20.0)
        shape = (count, 8, 16, 16, 3)
        return LabelledSet(np.zeros(shape, np.uint8), np.arange(count) % 20)

    monkeypatch.setattr(label_efficiency.jax, "jit", lambda function, **_: draw)
    study = Study(dataclasses.replace(TINY, labelled=40))
    monkeypatch.undo()
    drawn.set()
    assert study._train.clips.shape == (40, 8, 16, 16, 3)
    assert study._shapes(40).clips.shape == study._train.clips.shape
    assert len(study._test.labels) == 40


def test_the_plot_is_written(values, tmp_path):
    pytest.importorskip("matplotlib")
    command.plot(values, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_the_legend_of_the_plot_covers_no_curve(values):
    pytest.importorskip("matplotlib")
    figure = command._figure(values)
    figure.draw_without_rendering()
    boxes = [each.get_window_extent() for each in (*figure.legends, *figure.axes)]
    drawn = [axes.get_legend() for axes in figure.axes]
    assert len(boxes) == 3
    assert drawn == [None, None]
    assert not any(boxes[0].overlaps(panel) for panel in boxes[1:])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labelled": 30}, "labelled"),
        ({"tested": 0}, "tested"),
        ({"learning_rates": ()}, "learning_rates"),
    ],
)
def test_sizes_that_do_not_fit_are_explained(change, message):
    with pytest.raises(ValueError, match=message):
        StudyConfig(**change)


def test_short_clips_are_explained():
    with pytest.raises(ValueError, match="frames"):
        StudyConfig(clips=actions.ActionConfig(frames=6))


TINY = StudyConfig(
    width=1,
    base="mean",
    clips=actions.ActionConfig(size=16, texture_size=32),
    labelled=20,
    validated=20,
    tested=20,
    pretraining=3,
    finetuning=3,
    batch_size=4,
    compute="float32",
)


@pytest.fixture(scope="module")
def study():
    """A study of clips that need not be drawn."""
    study = Study.__new__(Study)
    study.config, study._programs = TINY, {}
    study._pool = ThreadPoolExecutor()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 8, 16, 16, 3), np.uint8)
    study._test = LabelledSet(jnp.asarray(pixels), jnp.arange(40) % 20)
    study._train = jax.tree.map(lambda leaf: leaf[:20], study._test)
    return study


def test_a_classifier_starts_with_the_pretrained_encoder(study, definition, monkeypatch):
    seen = []

    def run(study, task, params, training):
        seen.append(params)
        return params, jnp.zeros(2 if isinstance(task, Classification) else ())

    monkeypatch.setattr(Study, "_run", run)
    pretrained = study.pretrain("r3d")
    random = study.finetune("r3d", None, 20, 0, 1e-3)
    started = study.finetune("r3d", pretrained, 20, 0, 1e-3)
    assert (random.pretrained, started.pretrained) == (False, True)
    jax.tree.map(np.testing.assert_array_equal, seen[2]["encoder"], seen[0]["encoder"])
    jax.tree.map(np.testing.assert_array_equal, seen[2]["head"], seen[1]["head"])
    stems = [params["encoder"]["stem"]["kernel"] for params in seen[:2]]
    assert not np.allclose(*stems)


def test_accuracy_counts_clips_that_are_classified_correctly(study, monkeypatch):
    def classify(config, params, frames):
        # Right for the even classes only.
        wanted = jnp.round(255 * frames[:, 0, 0, 0, 0]).astype(jnp.int32)
        return jax.nn.one_hot(wanted // 2 * 2, 20)

    monkeypatch.setattr(label_efficiency.classifier, "apply", classify)
    pixels = np.zeros((40, 8, 16, 16, 3), np.uint8)
    pixels[:, 0, 0, 0, 0] = [*range(20), *range(0, 20, 2), *range(0, 20, 2)]
    clips = LabelledSet(jnp.asarray(pixels), jnp.asarray(pixels[:, 0, 0, 0, 0], jnp.int32))
    task = study._classification("r3d")
    found = label_efficiency._accuracy(task, study.config, {}, clips)
    np.testing.assert_allclose(found, [0.5, 1.0])  # the clips for validation come first


def test_the_middle_frame_is_scored_against_the_blend(study):
    still = np.broadcast_to(np.full((8, 1, 1, 1), 100, np.uint8), (100, 8, 16, 16, 3)).copy()
    still[:, 3] = 110
    blended = Study.__new__(Study)
    blended.config = StudyConfig(tested=100)
    blended._test = LabelledSet(jnp.asarray(still), jnp.zeros(100, jnp.int32))
    assert blended.blend() == pytest.approx(20 * np.log10(255 / 10), abs=1e-2)


def test_the_command_stops_in_time_and_writes_what_it_has(tmp_path, monkeypatch, capsys):
    class Quick(Study):
        def __init__(self, config):
            pass

        def compile(self, encoder):
            return Programs(Future(), Future())

        def results(self, encoder, programs, shares, seeds, known=()):
            assert shares == (0.01, 1.0)
            yield Pretrained({}, 25.0, 1.0)
            for labels in (40, 4000):
                result = Result(encoder, True, labels, 0, 2e-3, 0.0, 0.25, 2.0)
                if result not in known:
                    yield result

        def blend(self):
            return 21.0

    monkeypatch.setattr(command, "Study", Quick)
    options = command.Options(tmp_path / "study.json", ("r3d", "mc3"), (1.0, 100.0), minutes=1e-9)
    command.main(options)
    written = json.loads((tmp_path / "study.json").read_text())
    assert [row["labels"] for row in written["results"]] == [40]  # the others began too late
    assert (tmp_path / "study.png").exists()
    assert "| r3d | 25.00 | pretrained | 25.0 ± 0.0 | 2.00 |" in capsys.readouterr().out
    command.main(dataclasses.replace(options, minutes=60.0))  # goes on
    rows = json.loads((tmp_path / "study.json").read_text())["results"]
    assert [(row["encoder"], row["labels"]) for row in rows] == [
        ("r3d", 40), ("r3d", 4000), ("mc3", 40), ("mc3", 4000)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"study": {"width": 1}}, "another study;"),
        ({"device": "TPU", "jax": "0.1"}, "another device and jax;"),
        ({"results": [{"labels": 4}]}, "another format;"),
    ],
)
def test_results_of_another_study_are_not_continued(tmp_path, change, message):
    path = tmp_path / "study.json"
    options = command.Options(path)
    path.write_text(json.dumps(command._begun(options)))
    assert command._begun(options)["results"] == []
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        command.main(options)


def test_shares_that_are_none_are_explained(tmp_path):
    with pytest.raises(ValueError, match="shares"):
        command.main(command.Options(tmp_path / "none.json", shares=(0.0,)))


def test_a_small_study_trains_and_tests(study, definition, shallow, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "Study", lambda config: study)
    options = command.Options(tmp_path / "study.json", ("r3d",), (100.0,), seeds=1, study=TINY)
    command.main(options)
    written = json.loads((tmp_path / "study.json").read_text())
    assert [(row["pretrained"], row["labels"]) for row in written["results"]] == [
        (False, 20), (True, 20)
    ]  # fmt: skip
    assert all(0 <= row["accuracy"] <= 1 for row in written["results"])
    assert 5 < written["pretraining"]["r3d"]["psnr"] < 60
    assert "| encoder | PSNR in dB | start | 20 labels | seconds |" in capsys.readouterr().out
