# SPDX-License-Identifier: Apache-2.0
"""Reading of PyTorch weights, without PyTorch and without running code in the files.

``read`` takes every published kind of checkpoint: the official ``.pth`` (zip, or the legacy format
of PyTorch ≤ 1.5), mmagic's, ``.safetensors``, and cuFLAVR's folder of raw tensors. ``recognise``
derives the network's settings from names and shapes; ``convert`` renames and transposes the tensors
to our parameters. Names of the official code occur only in this package.
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
