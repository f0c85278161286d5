# SPDX-License-Identifier: Apache-2.0
"""Weights that PyTorch wrote, read without PyTorch and without running anything in them.

``read`` takes a checkpoint of any kind found in the wild: the official ``.pth`` (zip, or the
legacy format of PyTorch ≤ 1.5), mmagic's, ``.safetensors``, or cuFLAVR's folder of raw tensors.
``recognise`` tells from names and shapes which network it is, ``convert`` renames and re-lays the
tensors as our parameters. Upstream spellings live in this package and nowhere else.
"""

from flavr_jax.torch_weights.names import Conversion, Mapped, convert, recognise
from flavr_jax.torch_weights.readers import TorchFile, read
from flavr_jax.torch_weights.unpickler import UnsafePickleError

__all__ = [
    "Conversion",
    "Mapped",
    "TorchFile",
    "UnsafePickleError",
    "convert",
    "read",
    "recognise",
]
