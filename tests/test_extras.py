# SPDX-License-Identifier: Apache-2.0
import importlib
import shlex
import sys
import tomllib
from pathlib import Path

import pytest

from flavr_jax import extras

ROOT = Path(__file__).parents[1]


def test_a_source_tree_is_installed_by_its_folder():
    *command, target = shlex.split(extras.install_command("train"))
    assert command == ["pip", "install", "-e"]
    assert target == f"{ROOT.resolve()}[train]"


def test_an_installed_package_is_installed_by_its_name(monkeypatch, tmp_path):
    monkeypatch.setattr(extras, "_ROOT", tmp_path)
    assert extras.install_command("metrics") == "pip install 'flavr-jax[metrics]'"


def test_a_folder_with_a_space_is_quoted(monkeypatch, tmp_path):
    root = tmp_path / "a b"
    root.mkdir()
    (root / "pyproject.toml").touch()
    monkeypatch.setattr(extras, "_ROOT", root)
    assert shlex.split(extras.install_command("train"))[-1] == f"{root}[train]"


@pytest.mark.parametrize("extra", ["cuda12", "cuda13", "train", "export", "vapoursynth", "metrics"])
def test_messages_name_extras_that_exist_on_every_python(extra):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert extra in project["optional-dependencies"]
    requirements = project["optional-dependencies"][extra]
    assert not any("python_version" in requirement for requirement in requirements)


def test_without_vapoursynth_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "vapoursynth", None)
    monkeypatch.delitem(sys.modules, "flavr_jax.vapoursynth", raising=False)
    with pytest.raises(ModuleNotFoundError, match=r"VapourSynth is not installed.*\[vapoursynth\]"):
        importlib.import_module("flavr_jax.vapoursynth")
