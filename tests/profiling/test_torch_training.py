# SPDX-License-Identifier: Apache-2.0
"""Only where PyTorch is installed: the timed peer learns what the network learns."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flavr_jax import losses
from flavr_jax.config import ModelConfig
from flavr_jax.data.mixture import Batch
from flavr_jax.models import flavr
from flavr_jax.profiling.torch_training import TorchTraining
from flavr_jax.training.optimizers import OptimizerConfig, optimizer
from flavr_jax.training.tasks import Interpolation


def test_the_peers_losses_are_ours_step_after_step():
    pytest.importorskip("torch", reason="PyTorch is not installed")
    config = ModelConfig(width=8, n_outputs=3)
    task = Interpolation(config, losses.parse("l1"))
    params = task.init(jax.random.key(0))
    rng = np.random.default_rng(0)
    inputs = rng.integers(0, 256, (2, 4, 16, 24, 3), np.uint8)
    targets = rng.integers(0, 256, (2, 3, 16, 24, 3), np.uint8)
    weights = np.array([[1.0, 3.0, 1.0], [0.0, 3.0, 0.0]], np.float32)

    peer = TorchTraining(config, params, inputs, targets, weights, dtype="float32", compiled=False)
    theirs = [float(peer.step()) for _ in range(3)]

    rule = optimizer(OptimizerConfig(clip_norm=0.0))
    batch = jax.tree.map(jnp.asarray, Batch(inputs / 255.0, targets / 255.0, weights))
    loss_and_gradient = jax.jit(jax.value_and_grad(lambda p: task.loss(p, batch, None)[0]))
    moments, ours = rule.init(params), []
    for _ in range(3):
        loss, gradient = loss_and_gradient(params)
        ours.append(float(loss))
        updates, moments = rule.update(gradient, moments, params)
        params = optax.apply_updates(params, jax.tree.map(lambda u: -1e-4 * u, updates))
    assert ours[0] - ours[2] > 1e-4  # they do learn
    np.testing.assert_allclose(theirs, ours, rtol=1e-5)


def test_computing_in_bfloat16_changes_the_loss_little():
    pytest.importorskip("torch", reason="PyTorch is not installed")
    config = ModelConfig(width=8)
    params = flavr.init(config, jax.random.key(0))
    rng = np.random.default_rng(0)
    batch = (
        rng.integers(0, 256, (1, 4, 16, 16, 3), np.uint8),
        rng.integers(0, 256, (1, 1, 16, 16, 3), np.uint8),
        np.ones((1, 1), np.float32),
    )
    exact, rounded = (
        float(TorchTraining(config, params, *batch, dtype=dtype, compiled=False).step())
        for dtype in ("float32", "bfloat16")
    )
    assert rounded != exact
    assert abs(rounded - exact) < 0.01 * exact
