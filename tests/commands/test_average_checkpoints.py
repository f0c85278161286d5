# SPDX-License-Identifier: Apache-2.0
"""Means of checkpoints from the command line."""

import sys

import jax
import numpy as np
import pytest

from flavr_jax import checkpoint, cli
from flavr_jax.commands import average_checkpoints as script
from flavr_jax.config import ModelConfig
from flavr_jax.models import flavr

CONFIG = ModelConfig(width=2, n_outputs=1)


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("networks")
    for number in range(2):
        params = flavr.init(CONFIG, jax.random.key(number))
        provenance = {"steps": number}
        checkpoint.save(folder / str(number), CONFIG, params, provenance=provenance)
    return folder / "0", folder / "1"


@pytest.fixture
def run(monkeypatch, capsys):
    """The script's exit code and what it said."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["average_checkpoints.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.run(script.main, script.Options)
        return stop.value.code, "".join(capsys.readouterr())

    return run


def test_a_mean_loads_and_says_what_it_is_of(run, networks, tmp_path):
    code, text = run(*networks, "--output", tmp_path / "m", "--weights", 0.25, 0.75)
    assert code in (0, None), text
    mean, *parts = (checkpoint.load(path) for path in (tmp_path / "m", *networks))
    for leaf, one, two in zip(*(jax.tree.leaves(each.params) for each in (mean, *parts))):
        np.testing.assert_allclose(leaf, 0.25 * one + 0.75 * two, atol=1e-7)
    found = [(part["checkpoint"], part["weight"], part["provenance"]["steps"])
             for part in mean.provenance["mean of"]]  # fmt: skip
    assert found == [("0", 0.25, 0), ("1", 0.75, 1)]


def test_without_weights_all_count_the_same(run, networks, tmp_path):
    run(*networks, "--output", tmp_path / "m")
    provenance = checkpoint.load(tmp_path / "m").provenance
    assert [part["weight"] for part in provenance["mean of"]] == [0.5, 0.5]


def test_mistakes_are_one_line_and_write_nothing(run, networks, tmp_path):
    for arguments, message in (
        ((networks[0],), "two checkpoints or more, not 1"),
        ((*networks, "--weights", 0.5), "one for each, of sum 1"),
        ((networks[0], tmp_path / "none"), "does not exist"),
    ):
        code, text = run(*arguments, "--output", tmp_path / "m")
        assert code == 2
        assert message in " ".join(text.split())
        assert "Traceback" not in text
    assert not (tmp_path / "m").exists()
