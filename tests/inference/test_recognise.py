# SPDX-License-Identifier: Apache-2.0
import jax
import numpy as np
import pytest
from PIL import Image

from flavr_jax import checkpoint
from flavr_jax.config import ModelConfig
from flavr_jax.inference.computation import NonFiniteError
from flavr_jax.inference.recognise import recognise
from flavr_jax.models import classifier
from flavr_jax.models.classifier import ClassifierConfig

CONFIG = ClassifierConfig(2, ModelConfig(width=1))
PROVENANCE = {
    "classes": ["walk", "run"],
    "recipe": {"labelled": {"frames": 2, "spacing": 1, "crop": 16}},
}


@pytest.fixture
def clip(tmp_path):
    folder = tmp_path / "clip"
    folder.mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def test_probabilities_are_of_the_classes_and_sum_to_1(tmp_path, clip):
    params = classifier.init(CONFIG, jax.random.key(0))
    checkpoint.save(tmp_path / "good", CONFIG, params, provenance=PROVENANCE)
    (found,) = recognise(tmp_path / "good", [clip])
    assert {name for name, _ in found} == {"walk", "run"}
    assert sum(probability for _, probability in found) == pytest.approx(1.0)


def test_scores_that_overflow_are_an_error_and_no_class(tmp_path, clip):
    params = jax.tree.map(lambda leaf: leaf * 1e12, classifier.init(CONFIG, jax.random.key(0)))
    checkpoint.save(tmp_path / "huge", CONFIG, params, provenance=PROVENANCE)
    with pytest.raises(NonFiniteError, match=rf"the prediction for {clip} is NaN or infinite"):
        list(recognise(tmp_path / "huge", [clip]))
