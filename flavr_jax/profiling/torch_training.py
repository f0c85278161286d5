# SPDX-License-Identifier: Apache-2.0
"""Training steps of the PyTorch peer, as a PyTorch user would make them fast.

Float32 weights computed with in bfloat16, channels innermost, forward and backward passes compiled
by ``torch.compile``, convolution algorithms chosen by trial, and Adam in one kernel. It does
less than our step does: gradients are not clipped, no average of the weights is kept, and windows
are not augmented.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from flavr_jax.config import ModelConfig
from flavr_jax.models.flavr import Parameters
from flavr_jax.profiling.torch_peer import TorchPeer

__all__ = ["TorchTraining"]


class TorchTraining:
    """Steps on one batch, which stays on the device."""

    def __init__(
        self,
        config: ModelConfig,
        params: Parameters,
        inputs: UInt8[np.ndarray, "batch time height width 3"],
        targets: UInt8[np.ndarray, "batch outputs height width 3"],
        weights: Float[np.ndarray, "batch outputs"],
        *,
        dtype: str = "bfloat16",
        compiled: bool = True,
        learning_rate: float = 1e-4,
    ) -> None:
        """Copy all to the GPU, or to the CPU where PyTorch sees none; the first step compiles.

        Args:
            config: a network that :class:`TorchPeer` has.
            params: where training starts.
            inputs: windows.
            targets: the frames to be predicted.
            weights: of these in the loss; a window's may not all be 0.
            dtype: what is computed in.
            compiled: whether by ``torch.compile``.
            learning_rate: of all steps.

        Raises:
            ModuleNotFoundError: PyTorch is not installed.
        """
        import torch  # pyright: ignore[reportMissingImports]

        self._torch = torch
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        torch.backends.cudnn.benchmark = True
        self._peer = TorchPeer(
            config, params, device=self._device, dtype=dtype, channels_last=True, masters=True
        )
        self._batch = [torch.tensor(part, device=self._device) for part in (inputs, targets)]
        self._batch.append(torch.tensor(weights, device=self._device))
        self._optimizer = torch.optim.AdamW(
            self._peer.weights.values(),
            lr=learning_rate,
            betas=(0.9, 0.99),
            weight_decay=1e-4,
            fused=True,
        )
        self._forward = torch.compile(self._loss, dynamic=False) if compiled else self._loss

    def step(self) -> Any:
        """Take a step; on a GPU it need not be done on return. The loss, a tensor."""
        loss = self._forward(*self._batch)
        loss.backward()
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def wait(self) -> None:
        """Return when all steps are done."""
        if self._device == "cuda":
            self._torch.cuda.synchronize()

    def close(self) -> None:
        """Give the memory back; nothing can be done afterwards."""
        self.__dict__.clear()

    def _loss(self, inputs: Any, targets: Any, weights: Any) -> Any:
        """L1, the weighted mean over a window's frames, then the mean over windows."""
        # [b, t, h, w, 3] as [b, 3, t, h, w] with channels innermost: nothing moves.
        prediction = self._peer(inputs.permute(0, 4, 1, 2, 3).float() / 255.0)
        truth = targets.permute(0, 1, 4, 2, 3).float() / 255.0
        distance = (prediction - truth).abs().mean((2, 3, 4))
        return ((distance * weights).sum(1) / weights.sum(1)).mean()
