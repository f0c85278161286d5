# SPDX-License-Identifier: Apache-2.0
"""Classes of clips, by a classifier that was trained here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from flavr_jax import checkpoint, config
from flavr_jax.data import labelled
from flavr_jax.models import classifier

__all__ = ["recognise"]


def recognise(path: Path, clips: list[Path], top: int = 5) -> Iterator[list[tuple[str, float]]]:
    """The likeliest classes of each clip and their probabilities, the likeliest first.

    Args:
        path: a classifier's checkpoint.
        clips: videos, or folders of images; they are cut as in validation.
        top: how many classes.

    Raises:
        OSError: the checkpoint or a clip is missing.
        ValueError: the checkpoint is no classifier, or a clip cannot be read.
    """
    network, params, provenance = checkpoint.load_classifier(path)
    names = provenance["classes"]
    cut = config.build(
        labelled.LabelledConfig, {**provenance["recipe"]["labelled"], "batch_size": 1}
    )
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)
    predict = jax.jit(lambda params, clips: classifier.apply(network, params, clips))
    source = labelled.LabelledClips(tuple(names), tuple(clips), (0,) * len(clips))
    loader = labelled.LabelledLoader(source, cut, training=False)
    for _ in clips:
        frames = jnp.asarray(next(loader).clips, jnp.float32) / 255.0
        chances = np.asarray(jax.nn.softmax(predict(params, frames)[0]))
        order = np.argsort(-chances)[:top]
        yield [(names[number], float(chances[number])) for number in order]
