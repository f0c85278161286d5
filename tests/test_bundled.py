# SPDX-License-Identifier: Apache-2.0
"""Bundled files are found in a source tree and in a wheel. `.ci/check_wheel` installs the wheel."""

import tomllib
from pathlib import Path

import pytest

from flavr_jax import bundled
from flavr_jax.bundled import DEFAULT_CHECKPOINT, MAGNIFY_CHECKPOINT, SAMPLE

ROOT = Path(__file__).parents[1].resolve()
WHEEL = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"][
    "wheel"
]


def test_a_source_tree_has_the_files_in_their_own_folders():
    assert ROOT / "checkpoints/default" == DEFAULT_CHECKPOINT
    assert ROOT / "docs/media/sample.mp4" == SAMPLE


def test_a_wheel_has_the_files_inside_the_package(monkeypatch, tmp_path):
    monkeypatch.setattr(bundled, "_IN_WHEEL", tmp_path)
    assert bundled.bundled("configs/default.toml") == tmp_path / "configs/default.toml"


@pytest.mark.parametrize("path", [DEFAULT_CHECKPOINT, MAGNIFY_CHECKPOINT, SAMPLE, ROOT / "configs"])
def test_the_wheel_gets_every_bundled_file_where_it_is_looked_for(path):
    name = str(path.relative_to(ROOT))
    assert name in WHEEL["only-include"]
    top = name.split("/")[0]
    home = bundled._IN_WHEEL.relative_to(ROOT)
    assert WHEEL["sources"][top] == str(home / top)


def test_the_wheel_stays_below_30_megabytes():
    files = [
        file
        for name in WHEEL["only-include"]
        for file in [ROOT / name, *(ROOT / name).rglob("*")]
        if file.is_file() and "__pycache__" not in file.parts
    ]
    assert len(files) > 200
    assert sum(file.stat().st_size for file in files) < 30e6  # checkpoints hardly compress


@pytest.mark.parametrize("package", ["flavr_jax", "pallas_kernels"])
def test_type_checkers_read_the_annotations_of_an_installed_package(package):
    assert (ROOT / package / "py.typed").is_file()


def test_a_recipe_is_found_by_its_name_in_the_source_tree_also_elsewhere(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert bundled.existing(Path("configs/default.toml")) == ROOT / "configs/default.toml"
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/default.toml").touch()
    assert bundled.existing(Path("configs/default.toml")) == Path("configs/default.toml")
    assert bundled.existing(Path("mine.toml")) == Path("mine.toml")
    assert bundled.existing(Path("flavr_jax/cli.py")) == Path("flavr_jax/cli.py")
