# SPDX-License-Identifier: Apache-2.0
"""Removes the noise of images with few samples, by Intel's network Open Image Denoise."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from flavr_jax.extras import install_command
from flavr_jax.render.tracer import Image

__all__ = ["denoised"]


def denoised(image: Image) -> Float[np.ndarray, "height width 3"]:
    """Return an image's light with less noise; albedo and normals tell edges from noise.

    The network runs on the CPU.

    Raises:
        ModuleNotFoundError: the package pyoidn is not installed.
    """
    try:
        import pyoidn
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"Open Image Denoise is in the package pyoidn: {install_command('denoise')}."
        ) from error
    light, albedo, normal = (np.asarray(each, np.float32) for each in image)
    # hdr, because light is linear and may exceed 1.
    return pyoidn.denoise(light, albedo=albedo, normal=normal, hdr=True)
