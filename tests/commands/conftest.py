# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import functools
import sys

import pytest

import flavr_jax
from flavr_jax import cli
from flavr_jax.commands import interpolate as script


@pytest.fixture(scope="session")
def network(untrained):
    """A checkpoint of a small 8× network that nobody trained."""
    return untrained(7)


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
