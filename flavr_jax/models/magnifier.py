# SPDX-License-Identifier: Apache-2.0
"""A network that magnifies small motion: FLAVR's U-Net with the factor as a fourth input channel.

FLAVR section 5 fine-tunes the interpolation network to magnify motion. A window has the frame at
rest and three consecutive frames; the network predicts the middle one of the three, with its
motion from the frame at rest magnified. As in the warping head (:mod:`flavr_jax.models.head`), the
output convolution predicts backward flow into each input frame, and the weights that mix the
displaced frames. Mixing several frames also averages their noise. With v the raw outputs, m the
factor and x the position of a pixel,

    output(x) = Σᵢ wᵢ · frameᵢ(x + m/2 · vᵢ) + v_colour,   w = softmax(v_weight)

so that a raw flow of 1 is a motion of about half a pixel, whatever the factor.

Oh et al. 2018, https://arxiv.org/abs/1804.02684, train a network for the same task on pairs of
frames.
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
from flavr_jax.models.decoder import Decoder
from flavr_jax.models.encoder import Encoder
from flavr_jax.models.layers import Conv2d, Fusion, Implementation, LayerOptions, sample
from flavr_jax.typing import Windows

__all__ = ["Magnifier", "MagnifierConfig", "apply", "init", "parameter_shapes"]

_UNIT = 0.5  # pixels of motion, before it is magnified, for a raw flow of 1


@dataclasses.dataclass(frozen=True)
class MagnifierConfig:
    """Settings of a network that magnifies motion.

    Attributes:
        largest_factor: largest factor that it was trained for.
        model: the U-Net; its head and number of outputs have no effect.
    """

    largest_factor: float = 30.0
    model: ModelConfig = dataclasses.field(default_factory=lambda: ModelConfig(width=24))

    def __post_init__(self) -> None:
        if self.largest_factor < 1:
            raise ValueError(f"`largest_factor` is {self.largest_factor}; it is at least 1.")
        if self.model.n_inputs != 4 or self.model.trunk_scale != 1:
            raise ValueError(
                f"`model` has {self.model.n_inputs} inputs and `trunk_scale` "
                f"{self.model.trunk_scale}; a network that magnifies has 4 and 1."
            )


class Magnifier(nnx.Module):
    """The whole network; heights and widths of frames are multiples of 8."""

    def __init__(
        self,
        config: MagnifierConfig,
        *,
        rngs: nnx.Rngs | None,
        implementation: Implementation | None = None,
    ) -> None:
        model = config.model
        options = LayerOptions(rngs, model.batch_norm, implementation)
        self.implementation: Implementation | None = options.implementation
        self.encoder = Encoder(model, options, channels=4)
        self.decoder = Decoder(model, options)
        self.fuse = Fusion(model.n_inputs, model.width, options)
        # Small initial weights: at first, the output is nearly the mean of the inputs.
        channels = 3 + 3 * model.n_inputs
        self.out = Conv2d(model.width, channels, 7, options, padding="reflect", gain=0.01)

    def __call__(
        self, windows: Windows, factors: Float[Array, " batch"], *, remat: bool = False
    ) -> Windows:
        """Return a magnified frame for each window; float32 and not clipped.

        Args:
            windows: RGB in [0, 1]: the frame at rest and three consecutive frames.
            factors: how many times the motion is magnified.
            remat: see :meth:`flavr_jax.models.flavr.FLAVR.__call__`.
        """
        dtype = self.out.kernel[...].dtype
        batch, frames, height, width, _ = windows.shape
        colours = windows - flavr.mean_colour(windows)
        # The logarithm, because the factors in training are distributed evenly over it.
        factor = jnp.log(factors)[:, None, None, None, None] / 4.0
        plane = jnp.broadcast_to(factor, (batch, frames, height, width, 1))
        seen = jnp.concatenate([colours, plane], axis=-1).astype(dtype)
        x = self.decoder(self.encoder(seen, remat=remat), remat=remat)
        raw = self.out(self.fuse(x, "leaky_relu"), out_dtype=jnp.float32)
        flow = raw[..., 3 : 3 + 2 * frames].reshape(batch, height, width, frames, 2)
        flow = _UNIT * factors[:, None, None, None, None] * jnp.moveaxis(flow, 3, 1)
        weights = jnp.moveaxis(jax.nn.softmax(raw[..., 3 + 2 * frames :]), 3, 1)
        return sample(
            jax.lax.stop_gradient(windows),  # frames are data
            flow[:, None],
            weights[:, None],
            residual=raw[:, None, ..., :3],
            implementation=self.implementation,
        )


def init(config: MagnifierConfig, key: Array) -> flavr.Parameters:
    """Random float32 parameters; see :func:`flavr_jax.models.flavr.init`."""
    return flavr.to_dict(nnx.state(Magnifier(config, rngs=nnx.Rngs(key))))


def parameter_shapes(config: MagnifierConfig) -> flavr.Parameters:
    """The parameter tree with a ``jax.ShapeDtypeStruct`` in place of every array."""
    return flavr.to_dict(_skeleton(config, None)[1])


def apply(
    config: MagnifierConfig,
    params: flavr.Parameters,
    windows: Windows,
    factors: Float[Array, " batch"],
    *,
    implementation: Implementation | None = None,
    remat: bool = False,
) -> Windows:
    """The network as a function; see :meth:`Magnifier.__call__`."""
    graph, abstract = _skeleton(config, implementation)
    state = jax.tree.map(lambda leaf: leaf, abstract)
    nnx.replace_by_pure_dict(state, params)
    return nnx.merge(graph, state)(windows, factors, remat=remat)


@functools.cache
def _skeleton(
    config: MagnifierConfig, implementation: Implementation | None
) -> tuple[nnx.GraphDef, nnx.State]:
    model = nnx.eval_shape(lambda: Magnifier(config, rngs=None, implementation=implementation))
    return nnx.split(model)
