# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import functools
import sys

import jax
import numpy as np
import pytest

import flavr_jax
from flavr_jax import checkpoint, cli
from flavr_jax.commands import interpolate as script
from flavr_jax.config import ModelConfig
from flavr_jax.models import flavr


@pytest.fixture(scope="session")
def network(tmp_path_factory):
    """A checkpoint of a small 8× network that nobody trained."""
    path = tmp_path_factory.mktemp("network") / "tiny_8x"
    config = ModelConfig(width=4, n_outputs=7)
    random = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: random.normal(0, 0.05, leaf.shape).astype(np.float32),
        flavr.parameter_shapes(config),
    )
    checkpoint.save(path, config, params, provenance={"source": "random, for a test"})
    return path


@pytest.fixture(scope="session")
def load_once():
    """Loading, and with it compiling, happens once for each network and frame size."""
    return functools.lru_cache(flavr_jax.load)


@pytest.fixture
def interpolate(network, load_once, monkeypatch, tmp_path):
    """Run the script in this process and in an empty directory; gives its exit code."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, checkpoint=network):
        monkeypatch.setattr(flavr_jax, "load", load_once)
        arguments = [*map(str, arguments), "--checkpoint", str(checkpoint)]
        monkeypatch.setattr(sys, "argv", ["interpolate.py", *arguments])
        with pytest.raises(SystemExit) as stop:
            cli.run(script.main, script.Options)
        return stop.value.code

    return run
