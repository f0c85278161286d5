# SPDX-License-Identifier: Apache-2.0
"""The network on the formulation that a CPU runs: official outputs, and those of the definition."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flavr_jax import torch_weights
from flavr_jax.config import ModelConfig
from flavr_jax.models import flavr

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = [case["name"] for case in json.loads((GOLDEN / "index.json").read_text())]


@pytest.mark.parametrize("case", CASES)
def test_the_network_gives_the_official_outputs(case, golden_shapes, golden_tensor):
    tensors = {name: golden_tensor(name, shape) for name, shape in golden_shapes(case).items()}
    conversion = torch_weights.convert(tensors)
    stored = np.load(GOLDEN / f"{case}.npz")
    apply = jax.jit(flavr.apply, static_argnums=0)
    outputs = apply(conversion.config, conversion.params, jnp.asarray(stored["frames"]))
    assert np.abs(np.asarray(outputs) - stored["outputs"]).max() < 2e-5


VARIANTS = {
    "wider decoder": {"n_outputs": 3, "decoder_widths": (8, 3, 2, 2, 1)},
    "2 inputs, blend": {"n_inputs": 2, "n_outputs": 3, "base": "blend"},
    "3 inputs, trilinear": {"n_inputs": 3, "upsampling": "trilinear"},
    "no skips, mc3": {"join": "none", "encoder": "mc3"},
    "added skips, r2plus1d, norm": {"join": "add", "encoder": "r2plus1d", "batch_norm": True},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_fast_formulation_gives_the_outputs_of_the_definition(variant):
    config = ModelConfig(width=4, **VARIANTS[variant])
    params = flavr.init(config, jax.random.key(0))
    windows = jax.random.uniform(jax.random.key(1), (2, config.n_inputs, 16, 24, 3))
    apply = jax.jit(flavr.apply, static_argnums=0, static_argnames="implementation")
    fast = apply(config, params, windows, implementation="xla")
    defined = apply(config, params, windows, implementation="reference")
    assert fast.shape == (2, config.n_outputs, 16, 24, 3)
    assert fast.dtype == jnp.float32
    assert np.abs(fast - defined).max() < 1e-5
