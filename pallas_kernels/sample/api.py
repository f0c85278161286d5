# SPDX-License-Identifier: Apache-2.0
"""Backward warping with blending: look up several images bilinearly and mix them by weights.

See Jaderberg et al. 2015, section 3.3, https://arxiv.org/abs/1506.02025, for a single image.
"""

from __future__ import annotations

import dataclasses

from jax import Array
from jaxtyping import Float

from pallas_kernels.core import device, dispatch
from pallas_kernels.core.dispatch import Candidate, Implementation
from pallas_kernels.sample import mosaic_gpu, reference, xla

__all__ = ["sample"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleArguments:
    """Arguments of :func:`sample`."""

    images: Float[Array, "batch source image_height image_width channel"]
    displacements: Float[Array, "batch output source height width 2"]
    weights: Float[Array, "batch output source height width"]
    residual: Float[Array, "batch output height width channel"] | None

    @property
    def operands(self) -> tuple[Array, Array]:
        """The images, and the displacements in place of a kernel."""
        return self.images, self.displacements


def _mosaic_gpu(arguments: SampleArguments) -> Array:
    return mosaic_gpu.sample(
        arguments.images, arguments.displacements, arguments.weights, arguments.residual
    )


def _why_not_mosaic_gpu(arguments: SampleArguments) -> str | None:
    return mosaic_gpu.why_not(
        arguments.images, arguments.displacements, arguments.weights, arguments.residual
    )


def _xla(arguments: SampleArguments) -> Array:
    mixed = xla.sample(arguments.images, arguments.displacements, arguments.weights)
    return mixed if arguments.residual is None else mixed + arguments.residual


def _reference(arguments: SampleArguments) -> Array:
    mixed = reference.sample(arguments.images, arguments.displacements, arguments.weights)
    return mixed if arguments.residual is None else mixed + arguments.residual


IMPLEMENTATIONS: dict[Implementation, Candidate[SampleArguments, Array]] = {
    "mosaic_gpu": Candidate(_mosaic_gpu, _why_not_mosaic_gpu, device.untried),
    "xla": Candidate(_xla),
    "reference": Candidate(_reference),
}


def sample(
    images: Float[Array, "batch source image_height image_width channel"],
    displacements: Float[Array, "batch output source height width 2"],
    weights: Float[Array, "batch output source height width"],
    *,
    residual: Float[Array, "batch output height width channel"] | None = None,
    implementation: Implementation | None = None,
) -> Float[Array, "batch output height width channel"]:
    """``Σₛ weight[o, s] · image[s](position + displacement[o, s]) + residual[o]``.

    Images are interpolated bilinearly.

    Positions beyond the border are clamped to it. The arithmetic has the dtype of the arguments;
    use float32, because 16-bit types are too coarse for positions. All array arguments have
    gradients. At a whole displacement, where the interpolation has a kink, that of the displacement
    is the slope to the right and downwards.

    Args:
        images: source images. They may be larger than the output, which then shows their top left
            corner if the displacements are 0.
        displacements: in pixels; the first component points right, the second down.
        weights: weight of each source in each output; they need not add up to 1.
        residual: added to the mixed images.
        implementation: see :data:`pallas_kernels.Implementation`. The Mosaic GPU kernel takes
            float32 images of up to 4 channels. On GPUs after Hopper, for which it compiles, it runs
            only if it is named, because nobody has run it there yet.

    Raises:
        ValueError: shapes do not match, or no implementation has that name.
        NotImplementedError: the named implementation cannot run here.
    """
    batch, sources, _, _, channels = images.shape
    outputs, height, width = displacements.shape[1], *displacements.shape[3:5]
    wanted = (batch, outputs, sources, height, width)
    if displacements.shape != (*wanted, 2) or weights.shape != wanted:
        raise ValueError(
            f"for images of the shape {images.shape}, `displacements` have {displacements.shape} "
            f"and `weights` {weights.shape}; they must be {(*wanted, 2)} and {wanted}."
        )
    mixed = (batch, outputs, height, width, channels)
    if residual is not None and residual.shape != mixed:
        raise ValueError(f"`residual` has the shape {residual.shape}; it must be {mixed}.")
    arguments = SampleArguments(
        images=images, displacements=displacements, weights=weights, residual=residual
    )
    return dispatch.call("sample", IMPLEMENTATIONS, implementation, arguments)
