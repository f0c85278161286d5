# SPDX-License-Identifier: Apache-2.0
"""The package as a user meets it: its public names and its version."""

import subprocess
import sys
import tomllib
from pathlib import Path

import flavr_jax

ROOT = Path(__file__).parents[1]


def test_public_names_are_listed_before_they_are_imported():
    code = (
        "import sys, flavr_jax; names = set(dir(flavr_jax)); assert 'jax' not in sys.modules;"
        "sys.exit(not {'load', 'Interpolator', 'ModelConfig', '__version__'} <= names)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_public_name_can_be_had():
    assert all(getattr(flavr_jax, name) is not None for name in flavr_jax.__all__)


def test_the_version_is_that_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert flavr_jax.__version__ == project["version"]
