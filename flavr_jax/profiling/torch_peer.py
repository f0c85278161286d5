# SPDX-License-Identifier: Apache-2.0
"""The same network in PyTorch, from standard layers, as a baseline for times.

It takes this project's parameters, so that both networks must give the same output. PyTorch is
imported only when a peer is created.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from flax import traverse_util

from flavr_jax.config import ModelConfig
from flavr_jax.models.flavr import Parameters
from flavr_jax.profiling import torch_head

__all__ = ["TorchPeer"]


class TorchPeer:
    """FLAVR in PyTorch: 3-D residual blocks, transposed convolutions, concatenated skips, a head.

    Attributes:
        weights: PyTorch tensors by the path of our parameters; leaves of the autograd graph.
    """

    def __init__(
        self,
        config: ModelConfig,
        params: Parameters,
        *,
        device: str = "cuda",
        dtype: str = "float32",
        channels_last: bool = False,
        masters: bool = False,
    ) -> None:
        """Copy ``params`` to a device.

        Args:
            config: the network.
            params: parameters, as :func:`flavr_jax.models.flavr.init` names them.
            device: PyTorch's name of the device.
            dtype: dtype in which it computes.
            channels_last: store channels innermost in memory.
            masters: for training, keep float32 weights with gradients, and cast them when used.

        Raises:
            ModuleNotFoundError: PyTorch is not installed.
            ValueError: the peer does not have this variant of the network.
        """
        variant = (config.encoder, config.join, config.upsampling, config.batch_norm)
        if variant != ("r3d", "concat", "transposed", False) or config.base == "blend":
            raise ValueError(
                f"the PyTorch peer has no {variant} with base {config.base}; compare a network of "
                "encoder r3d, join concat, upsampling transposed, batch_norm false and base mean "
                "or warp."
            )
        if config.look_up != "bilinear":
            raise ValueError(f"the PyTorch peer has no {config.look_up} look-ups, only bilinear.")
        import torch  # pyright: ignore[reportMissingImports]

        self.torch = torch
        self.config = config
        self.channels_last = channels_last
        self.dtype = getattr(torch, dtype)
        flat = traverse_util.flatten_dict(params, sep="/")
        kept = torch.float32 if masters else self.dtype
        self.weights = {
            path: self._tensor(path, np.asarray(leaf, np.float32)).to(device, kept)
            for path, leaf in flat.items()
        }
        if channels_last:
            formats = {4: torch.channels_last, 5: torch.channels_last_3d}
            self.weights = {
                path: w.contiguous(memory_format=formats[w.ndim]) if w.ndim in formats else w
                for path, w in self.weights.items()
            }
        for weight in self.weights.values():
            weight.requires_grad_(masters)

    def __call__(
        self,
        windows: Any,
        mark: Callable[[str], None] = lambda stage: None,
        outputs: Any = None,
    ) -> Any:
        """Predict the frames inside the middle interval.

        Args:
            windows: a float32 tensor ``[batch, 3, time, height, width]`` in [0, 1].
            mark: called with the name of each stage once its work has been issued.
            outputs: indices of each sample's frames, an int64 tensor ``[batch, output]``; None for
                all frames.

        Returns:
            a float32 tensor ``[batch, output, 3, height, width]``.
        """
        torch, scale = self.torch, self.config.trunk_scale
        small = windows
        if scale > 1:
            small = torch.nn.functional.avg_pool3d(windows, (1, scale, scale))
        mean = small.mean((2, 3, 4), keepdim=True)
        x = (small - mean).to(self.dtype)
        if self.channels_last:
            x = x.contiguous(memory_format=torch.channels_last_3d)
        x = self._decode(self._encode(x, mark), mark)  # [b, width, t, h, w]
        # Time becomes channels, so the fusion of frames is a 2-D convolution.
        x = torch.cat(torch.unbind(x, 2), 1)
        x = features = self.leaky(torch.nn.functional.conv2d(x, self._weight("fuse/kernel")))
        mark("fuse")
        x = torch.nn.functional.pad(x, (3, 3, 3, 3), mode="reflect")
        x = self.conv2d("out", x, padding="valid").float()
        mark("out")
        x = x.unflatten(1, (self.config.n_outputs, -1))
        if outputs is None:
            outputs = torch.arange(self.config.n_outputs, device=x.device).expand(x.shape[:2])
        else:
            x = torch.take_along_dim(x, outputs[..., None, None, None], 1)
        if self.config.base == "mean":
            return x + mean[:, None, :, 0]
        times = (outputs + 1) / (self.config.n_outputs + 1)
        x = torch_head.frames(self, x, features, windows, times)
        mark("head")
        return x

    def conv2d(self, path: str, x: Any, padding: str = "same") -> Any:
        """Convolve images by the layer at ``path``, zeros around them unless ``padding`` says."""
        bias = self._weight(f"{path}/bias") if f"{path}/bias" in self.weights else None
        return self.torch.nn.functional.conv2d(
            x, self._weight(f"{path}/kernel"), bias, padding=padding
        )

    def leaky(self, x: Any) -> Any:
        """Apply the activation of the decoder, the fusion and the looks."""
        return self.torch.nn.functional.leaky_relu(x, 0.2)

    def _tensor(self, path: str, leaf: np.ndarray) -> Any:
        """Convert a parameter to PyTorch's layout."""
        if leaf.ndim == 5 and leaf.shape[:3] == (3, 4, 4):  # transposed: taps reversed, in first
            leaf = leaf[::-1, ::-1, ::-1].transpose(3, 4, 0, 1, 2)
        elif leaf.ndim > 2:
            leaf = np.moveaxis(leaf, (-1, -2), (0, 1))
        elif leaf.ndim == 2:  # a gate
            leaf = leaf.T
        return self.torch.tensor(leaf.copy())

    def _encode(self, x: Any, mark: Callable[[str], None]) -> list[Any]:
        """Return the features of the stem and the four stages."""
        relu = self.torch.relu
        x = relu(self._conv("encoder/stem", x, stride=(1, 2, 2), padding=(1, 3, 3)))
        mark("encoder/stem")
        features = [x]
        for number, blocks in enumerate(self.config.blocks, 1):
            for index in range(blocks):
                path = f"encoder/layer{number}/{index}"
                stride = (1, 2, 2) if index == 0 and number in (2, 3) else (1, 1, 1)
                y = relu(self._conv(f"{path}/conv1", x, stride=stride, padding=1))
                y = self._gate(path, self._conv(f"{path}/conv2", y, padding=1))
                if f"{path}/shortcut/kernel" in self.weights:
                    x = self._conv(f"{path}/shortcut", x, stride=stride)
                x = relu(y + x)
            mark(f"encoder/layer{number}")
            features.append(x)
        return features

    def _decode(self, features: list[Any], mark: Callable[[str], None]) -> Any:
        """Return full-size features of every input frame, ``[batch, width, time, h, w]``."""
        *skips, x = features
        for number in range(5):
            path = f"decoder/stages/{number}"
            if number:
                x = self.torch.cat([x, skips[4 - number]], 1)
            if number in (0, 3):  # these stages keep the size; the others double it
                x = self._conv(f"{path}/conv", x, padding=1)
            else:
                x = self.torch.nn.functional.conv_transpose3d(
                    x,
                    self._weight(f"{path}/conv/kernel"),
                    self._weight(f"{path}/conv/bias"),
                    stride=(1, 2, 2),
                    padding=1,
                )
            x = self.leaky(self._gate(path, x))
            mark(f"decoder/stage{number}")
        return x

    def _conv(self, path: str, x: Any, **options: Any) -> Any:
        bias = self._weight(f"{path}/bias") if f"{path}/bias" in self.weights else None
        conv3d = self.torch.nn.functional.conv3d
        return conv3d(x, self._weight(f"{path}/kernel"), bias, **options)

    def _gate(self, path: str, x: Any) -> Any:
        kernel, bias = self._weight(f"{path}/gate/kernel"), self._weight(f"{path}/gate/bias")
        logits = self.torch.nn.functional.linear(x.mean((2, 3, 4)), kernel, bias)
        return x * self.torch.sigmoid(logits)[:, :, None, None, None]

    def _weight(self, path: str) -> Any:
        return self.weights[path].to(self.dtype)  # no copy if the dtype is the same
