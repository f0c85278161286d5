# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import jax
import pytest

from flavr_jax import program_cache


@pytest.fixture(autouse=True)
def no_choice():
    """A user who chose no folder; the test run's own folder comes back afterwards."""
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    jax.config.update("jax_compilation_cache_dir", before)


def test_programs_are_kept_in_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    program_cache.enable()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "flavr_jax" / "compiled")


def test_a_users_own_folder_is_respected(tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "mine"))
    program_cache.enable()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "mine")


def test_a_user_without_a_home_has_no_cache(monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    program_cache.enable()
    assert jax.config.jax_compilation_cache_dir is None
