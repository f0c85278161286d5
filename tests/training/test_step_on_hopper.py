# SPDX-License-Identifier: Apache-2.0
"""The training step on Hopper's kernels, as far as a machine without a GPU can tell."""

import jax
import jax.numpy as jnp
import numpy as np

import pallas_kernels as pk
from flavr_jax import losses
from flavr_jax.config import ModelConfig
from flavr_jax.data import mixture, pipeline
from flavr_jax.models import flavr
from flavr_jax.training import inputs, state, step
from flavr_jax.training.optimizers import OptimizerConfig
from flavr_jax.training.parallel import Parallel
from flavr_jax.training.tasks import Interpolation
from pallas_kernels.core.jax_versions import CAN_TRANSPOSE

MODEL = ModelConfig(width=32, n_outputs=7)
TASK = Interpolation(MODEL, losses.parse("l1"))
# Of 27 convolutions, three shortcuts and the fusion of frames have one tap. Of the others, only the
# stem remains where a kernel makes the weights' gradients, as it can from jax 0.11 on.
BY_XLA = 1 if CAN_TRANSPOSE else 23


def test_xla_runs_convolutions_of_weight_gradients_alone():
    parallel = Parallel("shard_map", tuple(jax.local_devices()[:1]))
    config = mixture.MixtureConfig(crop=64, batch_size=2, synthetic_share=0.0)
    run = step.make_step(
        TASK, inputs.Read(7, (), inputs.ReadConfig(), config), OptimizerConfig(), parallel
    )
    params = flavr.parameter_shapes(MODEL)
    current = jax.eval_shape(lambda params: state.create(params, OptimizerConfig(), 0), params)
    windows = pipeline.Window(
        np.zeros((2, 4, 64, 64, 3), np.uint8),
        np.zeros((2, 7, 64, 64, 3), np.uint8),
        np.ones((2, 7), np.float32),
    )
    shared = step.SharedInputs(jnp.float32(0.0), None)
    own = step.DeviceInputs(windows, step.make_signals(parallel))
    with pk.assume_hopper():
        traced = run.trace(current, shared, own)  # type: ignore[attr-defined]
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
    # Those have their taps where others have height and width.
    assert text.count("stablehlo.convolution") == BY_XLA
    assert text.count("->[0, 1, b, f]") == BY_XLA
    assert "mosaic_gpu" in text
