# SPDX-License-Identifier: Apache-2.0
"""Training steps of the PyTorch peer, with settings that are fast in PyTorch.

Float32 weights are cast to bfloat16, channels are innermost, ``torch.compile`` compiles the forward
and backward passes, cuDNN times its convolution algorithms, and AdamW is fused. The step does less
than ours: it does not clip gradients, average the weights, or augment windows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from flavr_jax.config import ModelConfig
from flavr_jax.models.flavr import Parameters
from flavr_jax.profiling.torch_peer import TorchPeer

__all__ = ["TorchTraining"]


class TorchTraining:
    """Training steps on one batch, which stays on the device."""

    def __init__(
        self,
        config: ModelConfig,
        params: Parameters,
        inputs: UInt8[np.ndarray, "batch time height width 3"],
        targets: UInt8[np.ndarray, "batch outputs height width 3"],
        weights: Float[np.ndarray, "batch outputs"],
        outputs: Int[np.ndarray, "batch outputs"] | None = None,
        *,
        dtype: str = "bfloat16",
        compiled: bool = True,
        learning_rate: float = 1e-4,
    ) -> None:
        """Copy everything to the GPU, or to the CPU if there is none; the first step compiles.

        Args:
            config: a network that :class:`TorchPeer` supports.
            params: initial parameters.
            inputs: input frames.
            targets: frames to predict.
            weights: weights of these frames in the loss; not all weights of a window may be 0.
            outputs: which of the network's outputs these frames are; None for all.
            dtype: dtype in which to compute.
            compiled: use ``torch.compile``.
            learning_rate: learning rate of all steps.

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
        parts = inputs, targets, weights, None if outputs is None else outputs.astype(np.int64)
        self._batch = [
            None if part is None else torch.tensor(part, device=self._device) for part in parts
        ]
        self._optimizer = torch.optim.AdamW(
            self._peer.weights.values(),
            lr=learning_rate,
            betas=(0.9, 0.99),
            weight_decay=1e-4,
            fused=True,
        )
        self._forward = torch.compile(self._loss, dynamic=False) if compiled else self._loss

    def step(self) -> Any:
        """Issue a step and return its loss as a tensor; on a GPU, do not wait for either."""
        loss = self._forward(*self._batch)
        loss.backward()
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def wait(self) -> None:
        """Wait for all steps issued so far."""
        if self._device == "cuda":
            self._torch.cuda.synchronize()

    def close(self) -> None:
        """Free the memory; the object cannot be used afterwards."""
        self.__dict__.clear()

    def _loss(self, inputs: Any, targets: Any, weights: Any, outputs: Any) -> Any:
        """Return the mean over windows of the weighted mean L1 over a window's frames."""
        # [b, t, h, w, 3] as [b, 3, t, h, w] with channels innermost: no data is moved.
        prediction = self._peer(inputs.permute(0, 4, 1, 2, 3).float() / 255.0, outputs=outputs)
        truth = targets.permute(0, 1, 4, 2, 3).float() / 255.0
        distance = (prediction - truth).abs().mean((2, 3, 4))
        return ((distance * weights).sum(1) / weights.sum(1)).mean()
