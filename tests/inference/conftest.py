# SPDX-License-Identifier: Apache-2.0
from collections.abc import Iterator

import jax
import numpy as np
import pytest

from flavr_jax.config import ModelConfig
from flavr_jax.inference.interpolator import Interpolator
from flavr_jax.models import flavr, head


@pytest.fixture(scope="module")
def random_network(definition: None) -> Interpolator:
    """A small 8× network with random parameters."""
    config = ModelConfig(width=4, n_outputs=7)
    return Interpolator(config, flavr.init(config, jax.random.key(0)))


@pytest.fixture(scope="module")
def blending_network(definition: None) -> Iterator[Interpolator]:
    """An 8× network that is nothing but the middle frames' blend: every output is known."""
    config = ModelConfig(width=1, n_outputs=7, base="blend")
    apply = flavr.apply

    def blend(of, params, windows, outputs=None):
        if of != config:
            return apply(of, params, windows, outputs=outputs)
        wanted = range(7) if outputs is None else outputs
        return head.blend(windows, np.array([n + 1 for n in wanted]) / 8)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flavr, "apply", blend)
        yield Interpolator(config, flavr.init(config, jax.random.key(0)))


@pytest.fixture
def clip():
    def make(n: int, height: int = 9, width: int = 14, seed: int = 0) -> np.ndarray:
        shape = (n, height, width, 3)
        return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)

    return make
