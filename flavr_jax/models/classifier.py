# SPDX-License-Identifier: Apache-2.0
"""An action classifier on the encoder of an interpolation network.

FLAVR section 5 fine-tunes the interpolation network's encoder to recognise actions. The encoder
does not stride over time and the head reads the mean over time and space, so a clip may have any
number of frames. Parameters have the same names as in the interpolation network, so that training
can start from its encoder.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float

from flavr_jax.config import ModelConfig
from flavr_jax.models import flavr
from flavr_jax.models.encoder import Encoder
from flavr_jax.models.layers import LayerOptions
from flavr_jax.typing import Windows

__all__ = ["Classifier", "ClassifierConfig", "apply", "init", "parameter_shapes"]


@dataclasses.dataclass(frozen=True)
class ClassifierConfig:
    """Settings of a classifier.

    Attributes:
        n_classes: number of classes.
        model: the interpolation network whose encoder is used; only encoder settings have an
            effect.
        dropout: share of features that a training step drops.
    """

    n_classes: int = 101
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    dropout: float = 0.5

    def __post_init__(self) -> None:
        if self.n_classes < 2:
            raise ValueError(f"`n_classes` is {self.n_classes}; a choice needs at least 2.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"`dropout` is {self.dropout}; it is a share below 1.")


class Classifier(nnx.Module):
    """Encoder, mean over time and space, and one linear layer."""

    def __init__(self, config: ClassifierConfig, *, rngs: nnx.Rngs | None) -> None:
        features = 8 * config.model.width
        options = LayerOptions(rngs, config.model.batch_norm)
        self.dropout = config.dropout
        self.encoder = Encoder(config.model, options)
        self.head = options.kernel(features, config.n_classes, gain=1.0)
        self.head_bias = nnx.Param(jnp.zeros(config.n_classes))

    def __call__(
        self, clips: Windows, key: Array | None = None, *, remat: bool = False
    ) -> Float[Array, "batch classes"]:
        """Logits, float32.

        Args:
            clips: RGB in [0, 1]; heights and widths are multiples of 8.
            key: random key for dropout in training; None turns dropout off.
            remat: see :meth:`flavr_jax.models.flavr.FLAVR.__call__`.
        """
        mean = jnp.mean(clips, axis=(1, 2, 3), keepdims=True)
        frames = (clips - mean).astype(self.head[...].dtype)
        *_, x = self.encoder(frames, remat=remat)  # [b, t, h/8, w/8, 8·width]
        # In float32: a sum of 16-bit numbers over whole clips would lose small features.
        x = jnp.mean(x.values.astype(jnp.float32), axis=(1, 2, 3))
        if key is not None and self.dropout > 0:
            kept = jax.random.bernoulli(key, 1.0 - self.dropout, x.shape)
            # Scaled up in training, so that inference needs no factor.
            x = jnp.where(kept, x / (1.0 - self.dropout), 0.0)
        return x @ self.head[...].astype(jnp.float32) + self.head_bias[...].astype(jnp.float32)


def init(config: ClassifierConfig, key: Array) -> flavr.Parameters:
    """Random float32 parameters; see :func:`flavr_jax.models.flavr.init`."""
    return flavr.to_dict(nnx.state(Classifier(config, rngs=nnx.Rngs(key))))


def parameter_shapes(config: ClassifierConfig) -> flavr.Parameters:
    """The parameter tree with a ``jax.ShapeDtypeStruct`` in place of every array."""
    return flavr.to_dict(_skeleton(config)[1])


def apply(
    config: ClassifierConfig,
    params: flavr.Parameters,
    clips: Windows,
    key: Array | None = None,
    *,
    remat: bool = False,
) -> Float[Array, "batch classes"]:
    """The classifier as a function; see :meth:`Classifier.__call__`."""
    graph, abstract = _skeleton(config)
    state = jax.tree.map(lambda leaf: leaf, abstract)
    nnx.replace_by_pure_dict(state, params)
    return nnx.merge(graph, state)(clips, key, remat=remat)


@functools.cache
def _skeleton(config: ClassifierConfig) -> tuple[nnx.GraphDef, nnx.State]:
    model = nnx.eval_shape(lambda: Classifier(config, rngs=None))
    return nnx.split(model)
