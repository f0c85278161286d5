# SPDX-License-Identifier: Apache-2.0
"""Classification of clips with a classifier trained by this project."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from flavr_jax import checkpoint, config
from flavr_jax.data import labelled
from flavr_jax.inference.computation import NonFiniteError, cause_of
from flavr_jax.models import classifier

__all__ = ["recognise"]


def recognise(path: Path, clips: list[Path], top: int = 5) -> Iterator[list[tuple[str, float]]]:
    """Yield, for each clip, the most likely classes with their probabilities, best first.

    Args:
        path: a classifier's checkpoint.
        clips: videos, or folders of images; frames are chosen and cropped as in validation.
        top: how many classes to report.

    Raises:
        OSError: the checkpoint or a clip is missing.
        ValueError: the checkpoint is not a classifier, or a clip cannot be read.
        NonFiniteError: the classifier's scores of a clip are NaN or infinite.
    """
    network, params, provenance = checkpoint.load_classifier(path)
    names = provenance["classes"]
    settings = config.build(
        labelled.LabelledConfig, {**provenance["recipe"]["labelled"], "batch_size": 1}
    )
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)
    predict = jax.jit(lambda params, clips: classifier.apply(network, params, clips))
    # Labels are required but unknown here, and not used.
    source = labelled.LabelledClips(tuple(names), tuple(clips), (0,) * len(clips))
    loader = labelled.LabelledLoader(source, settings, training=False)
    for clip in clips:
        frames = jnp.asarray(next(loader).clips, jnp.float32) / 255.0
        probabilities = np.asarray(jax.nn.softmax(predict(params, frames)[0]))
        if not np.isfinite(probabilities).all():
            raise NonFiniteError(f"the prediction for {clip}", cause_of("fp32"))
        order = np.argsort(-probabilities)[:top]
        yield [(names[number], float(probabilities[number])) for number in order]
