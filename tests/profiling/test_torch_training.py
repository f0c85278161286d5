# SPDX-License-Identifier: Apache-2.0
"""Only where PyTorch is installed: the timed peer learns what the network learns."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util

from flavr_jax import losses
from flavr_jax.config import LookConfig, ModelConfig
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


def test_one_target_of_each_window_is_learnt_as_ours_is():
    pytest.importorskip("torch", reason="PyTorch is not installed")
    looks = LookConfig(2, 8, layers=1), LookConfig(1, 8, layers=1)
    config = ModelConfig(
        width=8, n_outputs=3, base="warp", trunk_scale=2, looks=looks, flow_pairs=2, keep_still=True
    )
    task = Interpolation(config, losses.parse("l1"))
    params = task.init(jax.random.key(0))
    rng = np.random.default_rng(0)
    inputs = rng.integers(0, 256, (2, 4, 32, 48, 3), np.uint8)
    targets = rng.integers(0, 256, (2, 1, 32, 48, 3), np.uint8)
    weights, outputs = np.ones((2, 1), np.float32), np.array([[2], [1]])
    peer = TorchTraining(
        config, params, inputs, targets, weights, outputs, dtype="float32", compiled=False
    )
    batch = Batch(inputs / 255.0, targets / 255.0, weights, outputs)
    batch = jax.tree.map(jnp.asarray, batch)
    gradient = jax.jit(jax.grad(lambda p: task.loss(p, batch, None)[0]))(params)
    loss = peer._forward(*peer._batch)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(float(task.loss(params, batch, None)[0]), rel=1e-5)
    for path, ours in traverse_util.flatten_dict(gradient, sep="/").items():
        theirs = peer._peer.weights[path].grad.numpy()
        ours = peer._peer._tensor(path, np.asarray(ours)).numpy()
        assert np.abs(theirs - ours).max() <= 2e-3 * np.abs(ours).max() + 1e-9, path


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
