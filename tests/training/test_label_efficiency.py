# SPDX-License-Identifier: Apache-2.0
"""The study of pretraining: its windows, its training loop, its order, its table."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flavr_jax.commands import label_efficiency as command
from flavr_jax.data.synthetic import actions
from flavr_jax.data.synthetic.actions import LabelledSet
from flavr_jax.training import label_efficiency
from flavr_jax.training.label_efficiency import Pretrained, Result, Study, StudyConfig
from flavr_jax.training.optimizers import OptimizerConfig
from tests.training.toys import Line


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
    fit = label_efficiency._fit
    config = OptimizerConfig(learning_rate=0.05, weight_decay=0.0)
    start = {"mean": jnp.zeros(())}
    for known, mean in ((1, 3 / 255), (3, 13 / 255)):
        found = fit(Mean(), 8, config, start, clips(20), 200, known, jax.random.key(0))
        assert float(found["mean"]) == pytest.approx(mean, abs=0.15 * mean + 2e-3)


def test_no_steps_leave_the_parameters():
    start = {"mean": jnp.full((), 0.25)}
    found = label_efficiency._fit(
        Mean(), 8, OptimizerConfig(), start, clips(20), 0, 20, jax.random.key(0)
    )
    assert float(found["mean"]) == 0.25


def test_every_start_and_share_is_measured_with_balanced_labels():
    study = Study.__new__(Study)
    study.config = StudyConfig(labelled=4000)
    calls = []

    def finetune(encoder, pretrained, labels, seed):
        calls.append((encoder, pretrained is not None, labels, seed))
        return Result(encoder, pretrained is not None, labels, seed, 0.5, 1.0)

    study.finetune = finetune
    found = list(study.results("r3d", Pretrained({}, 30.0, 1.0), (0.01, 1.0), 2))
    assert len(found) == len(calls) == 8
    assert calls[:5] == [
        ("r3d", False, 40, 0), ("r3d", True, 40, 0), ("r3d", False, 4000, 0),
        ("r3d", True, 4000, 0), ("r3d", False, 40, 1),
    ]  # fmt: skip
    assert all(labels % len(actions.CLASSES) == 0 for _, _, labels, _ in calls)


@pytest.fixture
def values():
    rows = [
        Result("r3d", pretrained, labels, seed, accuracy + 0.02 * seed, 1.5)._asdict()
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


def test_the_plot_is_written(values, tmp_path):
    pytest.importorskip("matplotlib")
    command.plot(values, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("change", "message"), [({"labelled": 30}, "labelled"), ({"tested": 0}, "tested")]
)
def test_sizes_that_do_not_fit_are_explained(change, message):
    with pytest.raises(ValueError, match=message):
        StudyConfig(**change)


def test_short_clips_are_explained():
    with pytest.raises(ValueError, match="frames"):
        StudyConfig(clips=actions.ActionConfig(frames=6))
