# SPDX-License-Identifier: Apache-2.0
"""Backward warping with blending: look up several images bilinearly and mix them by weights.

See Jaderberg et al. 2015, section 3.3, https://arxiv.org/abs/1506.02025, for a single image.
"""

from __future__ import annotations

import dataclasses

from jax import Array
from jaxtyping import Float

from pallas_kernels.core import dispatch
from pallas_kernels.core.dispatch import Candidate, Implementation
from pallas_kernels.sample import reference, xla

__all__ = ["sample"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleArguments:
    """Arguments of :func:`sample`."""

    images: Float[Array, "batch source image_height image_width channel"]
    displacements: Float[Array, "batch output source height width 2"]
    weights: Float[Array, "batch output source height width"]

    @property
    def operands(self) -> tuple[Array, Array]:
        """The images, and the displacements in place of a kernel."""
        return self.images, self.displacements


def _xla(arguments: SampleArguments) -> Array:
    return xla.sample(arguments.images, arguments.displacements, arguments.weights)


def _reference(arguments: SampleArguments) -> Array:
    return reference.sample(arguments.images, arguments.displacements, arguments.weights)


IMPLEMENTATIONS: dict[Implementation, Candidate[SampleArguments, Array]] = {
    "xla": Candidate(_xla),
    "reference": Candidate(_reference),
}


def sample(
    images: Float[Array, "batch source image_height image_width channel"],
    displacements: Float[Array, "batch output source height width 2"],
    weights: Float[Array, "batch output source height width"],
    *,
    implementation: Implementation | None = None,
) -> Float[Array, "batch output height width channel"]:
    """``Σₛ weight[o, s] · image[s](position + displacement[o, s])``, bilinearly interpolated.

    Positions beyond the border are clamped to it. The arithmetic has the dtype of the arguments;
    use float32, because 16-bit types are too coarse for positions. Displacements, weights and
    images all have gradients.

    Args:
        images: source images. They may be larger than the output, which then shows their top left
            corner if the displacements are 0.
        displacements: in pixels; the first component points right, the second down.
        weights: weight of each source in each output; they need not add up to 1.
        implementation: "xla", "reference" or None; there is no Mosaic GPU kernel yet.

    Raises:
        ValueError: shapes do not match, or no implementation has that name.
    """
    batch, sources = images.shape[:2]
    wanted = (batch, displacements.shape[1], sources, *displacements.shape[3:5])
    if displacements.shape != (*wanted, 2) or weights.shape != wanted:
        raise ValueError(
            f"for images of the shape {images.shape}, `displacements` have {displacements.shape} "
            f"and `weights` {weights.shape}; they must be {(*wanted, 2)} and {wanted}."
        )
    arguments = SampleArguments(images=images, displacements=displacements, weights=weights)
    return dispatch.call("sample", IMPLEMENTATIONS, implementation, arguments)
