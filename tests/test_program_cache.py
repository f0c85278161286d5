# SPDX-License-Identifier: Apache-2.0
import math
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
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


@pytest.fixture
def folder(tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "cache"))
    return tmp_path / "cache" / "whole"


@pytest.fixture
def sources(tmp_path):
    path = tmp_path / "sources"
    path.mkdir()
    (path / "code.py").write_text("a = 1")
    return path


def build(sources, compiled_for, factor=2.0, name="scale", length=3):
    """A program that scales numbers, kept or compiled; its result for 1, 1, 1."""
    program_cache._digest.cache_clear()  # as in another process
    arguments = ([jnp.ones(length)], jnp.float32(factor))

    def scaled_and_summed(lists, scale):
        return lists[0] * scale, lists[0].sum()

    program = program_cache.compiled(
        scaled_and_summed,
        arguments,
        name=name,
        sources=[sources],
        on_compile=compiled_for.append,
    )
    scaled, total = program(*arguments)
    return [*np.asarray(scaled), float(total)]


def test_a_program_is_compiled_once_and_then_loaded(folder, sources):
    asked = []
    assert build(sources, asked) == [2.0, 2.0, 2.0, 3.0]
    assert asked == [None]
    assert len(list(folder.glob("*.program"))) == 1
    assert build(sources, asked, factor=5.0) == [5.0, 5.0, 5.0, 3.0]
    assert len(asked) == 1


def test_another_name_shape_or_source_is_another_program(folder, sources):
    asked = []
    build(sources, asked)
    build(sources, asked, name="other")
    build(sources, asked, length=4)
    (sources / "code.py").write_text("a = 2")
    build(sources, asked)
    assert len(asked) == 4
    # From the second on, it is known how long a program takes to compile here.
    assert asked[0] is None
    assert all(seconds is not None for seconds in asked[1:])


def test_a_small_program_does_not_count_for_the_usual_time(folder, sources):
    program_cache.compiled(jnp.sin, (jnp.ones(3),), name="small", sources=[sources])
    assert len(list(folder.glob("*.program"))) == 1
    assert program_cache.usual_seconds(jax.devices()[0]) is None


@pytest.mark.parametrize("damage", [b"", b"2\n", b"2\nnothing that can be loaded", None])
def test_a_damaged_program_is_compiled_again(folder, sources, damage):
    asked = []
    build(sources, asked)
    (path,) = folder.glob("*.program")
    path.write_bytes(path.read_bytes()[:-100] if damage is None else damage)
    assert build(sources, asked) == [2.0, 2.0, 2.0, 3.0]
    assert build(sources, asked) == [2.0, 2.0, 2.0, 3.0]
    assert len(asked) == 2


def test_a_program_of_another_user_is_not_loaded(folder, sources, monkeypatch):
    asked = []
    build(sources, asked)
    (path,) = folder.glob("*.program")
    if os.getuid() == 0:
        os.chown(path, 12345, -1)  # files of root are trusted
    else:
        monkeypatch.setattr(os, "getuid", lambda: 12345)
    build(sources, asked)
    assert len(asked) == 2


def test_without_a_cache_everything_is_compiled(sources, tmp_path):
    asked = []
    assert build(sources, asked) == [2.0, 2.0, 2.0, 3.0]
    assert build(sources, asked) == [2.0, 2.0, 2.0, 3.0]
    assert asked == [None, None]


def test_a_cache_that_cannot_be_written_is_no_error(sources, tmp_path):
    (tmp_path / "file").write_text("")
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "file"))
    assert build(sources, []) == [2.0, 2.0, 2.0, 3.0]


def test_a_kept_program_stays_out_of_the_cache_of_jax(folder, sources):
    # XLA cannot store it a second time once it comes from there.
    setting = "jax_persistent_cache_min_compile_time_secs"
    before = jax.config.jax_persistent_cache_min_compile_time_secs
    try:
        jax.config.update(setting, 0.0)
        build(sources, [], name="kept")
        assert [path.name for path in folder.parent.iterdir() if "scaled_and" in path.name] == []
        assert len(list(folder.glob("*.program"))) == 1
        assert jax.config.jax_persistent_cache_min_compile_time_secs == 0.0
    finally:
        jax.config.update(setting, before)


def test_a_value_is_computed_once_for_each_name_and_source(folder, sources):
    computed = []

    def remember(name, value):
        program_cache._digest.cache_clear()  # as in another process

        def compute():
            computed.append(name)
            return value

        return program_cache.remembered(compute, name=name, sources=[sources])

    assert [remember("a", None), remember("a", 1), remember("b", "text")] == [None, None, "text"]
    (sources / "code.py").write_text("a = 2")
    assert remember("b", 3) == 3
    assert computed == ["a", "b", "b"]


@pytest.mark.parametrize(("platform", "steps"), [("gpu", ["kernels", "whole"]), ("cpu", ["whole"])])
def test_the_kernels_of_a_gpu_are_compiled_before_the_program(platform, steps, monkeypatch):
    seen, compiled = [], jax.jit(jnp.cos).lower(1.0).compile()
    monkeypatch.setattr(program_cache, "compile_kernels", lambda *_: seen.append("kernels"))
    monkeypatch.setattr(
        jax.stages.Lowered, "compile", lambda self: seen.append("whole") or compiled
    )
    lowered = jax.jit(jnp.sin).lower(1.0)
    assert program_cache.compile_lowered(lowered, SimpleNamespace(platform=platform)) is compiled
    assert seen == steps


def test_threads_that_compile_at_once_leave_the_setting_of_jaxs_cache(folder, sources, monkeypatch):
    setting = "jax_persistent_cache_min_compile_time_secs"
    before, inside, meeting = getattr(jax.config, setting), [], threading.Barrier(2, timeout=30)
    real = program_cache.compile_lowered

    def together(lowered, device):
        # Neither thread compiles before both have lowered.
        meeting.wait()
        inside.append(getattr(jax.config, setting))
        meeting.wait()
        return real(lowered, device)

    monkeypatch.setattr(program_cache, "compile_lowered", together)
    lock = threading.Lock()

    def compiled(length):
        program = program_cache.compiled(
            jnp.sin, (jnp.zeros(length),), name="sine", sources=[sources], lowering=lock
        )
        return program(jnp.zeros(length)).shape

    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(compiled, (3, 4))) == [(3,), (4,)]
    assert inside == [math.inf] * 2
    assert getattr(jax.config, setting) == before
