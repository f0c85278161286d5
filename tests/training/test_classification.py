# SPDX-License-Identifier: Apache-2.0
import imageio.v3 as iio
import jax
import numpy as np
import pytest

from flavr_jax import checkpoint
from flavr_jax.config import ModelConfig
from flavr_jax.data.labelled import LabelledConfig
from flavr_jax.inference.recognise import recognise
from flavr_jax.models import flavr
from flavr_jax.training import loop, recipe, run_log
from flavr_jax.training.loop import Leg
from flavr_jax.training.optimizers import OptimizerConfig, ScheduleConfig
from flavr_jax.training.parallel import Parallel
from flavr_jax.training.recipe import Places, Recipe

pytestmark = pytest.mark.usefixtures("definition", "shallow")

MOTIONS = {"down": (2, 0), "left": (0, -2), "right": (0, 2), "up": (-2, 0)}
MODEL = ModelConfig(width=4, n_outputs=7)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Ramps of colour that move in one of four directions, behind noise; and lists of them."""
    root = tmp_path_factory.mktemp("motion")
    rng = np.random.default_rng(0)
    lists = {"train": [], "test": []}
    for name, (down, right) in MOTIONS.items():
        for number in range(14):
            clip = root / "clips" / name / f"clip{number}"
            clip.mkdir(parents=True)
            slope, colour = rng.uniform(5, 10, 2), rng.uniform(60, 130, 3)
            for time in range(4):
                y, x = np.indices((12, 12))
                ramps = slope[0] * (x - time * right), slope[1] * (y - time * down), 0 * x
                frame = colour + np.stack(ramps, axis=-1) + rng.uniform(-20, 20, (12, 12, 3))
                iio.imwrite(clip / f"{time}.png", np.clip(frame, 0, 255).astype(np.uint8))
            lists["train" if number < 8 else "test"].append(f"{name}/clip{number} 1\n")
    for name, lines in lists.items():
        (root / f"{name}.txt").write_text("".join(lines))
    return root


def test_a_classifier_learns_directions_of_motion_from_an_interpolation_checkpoint(
    clips, tmp_path, monkeypatch
):
    monkeypatch.setattr(loop.run_log, "plot", lambda folder: None)
    checkpoint.save(tmp_path / "eight", MODEL, flavr.init(MODEL, jax.random.key(0)))
    of = Recipe(
        model=MODEL,
        labelled=LabelledConfig(frames=4, spacing=1, crop=8, batch_size=24, flips=False),
        dropout=0.0,
        optimizer=OptimizerConfig(learning_rate=1e-2, average_decay=0.9),
        schedule=ScheduleConfig("cosine", warmup_steps=5),
        steps=50,
        compute="float32",
        reports=1,
        validation_batches=1,
    )
    places = Places(
        source=clips / "clips",
        training_list=clips / "train.txt",
        validation_list=clips / "test.txt",
    )
    task, inputs = recipe.prepare(of, places, Parallel())
    leg = Leg(init_from=tmp_path / "eight")
    assert loop.train(of, task, inputs, tmp_path / "run", leg)
    # Twenty-four clips, of colours and slopes that were never seen.
    assert run_log.read_metrics(tmp_path / "run")[-1]["validation accuracy"] > 0.95
    config, _, provenance = checkpoint.load_classifier(tmp_path / "run" / "checkpoint")
    assert provenance["classes"] == sorted(MOTIONS)
    assert config.n_classes == 4
    paths = [clips / "clips" / name / "clip13" for name in sorted(MOTIONS)]
    found = list(recognise(tmp_path / "run" / "checkpoint", paths, top=2))
    assert sum(best[0][0] == name for best, name in zip(found, sorted(MOTIONS))) >= 3
    assert all(len(best) == 2 and best[0][1] >= best[1][1] for best in found)
    with pytest.raises(ValueError, match="is a classifier"):
        checkpoint.load(tmp_path / "run" / "checkpoint")


def test_labelled_clips_need_a_folder():
    with pytest.raises(ValueError, match="learns classes; name the folder of clips with --source"):
        recipe.prepare(Recipe(labelled=LabelledConfig(), steps=1), Places(), Parallel())
