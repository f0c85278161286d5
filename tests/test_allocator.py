# SPDX-License-Identifier: Apache-2.0
"""Freed memory is kept for the next large array, where the C library is glibc."""

import os
import platform
import subprocess
import sys

import pytest

from flavr_jax import allocator

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")

FAULTS = """
import ctypes, resource, sys
from concurrent.futures import ThreadPoolExecutor
from flavr_jax import allocator

if sys.argv[1] == "keep":
    assert allocator.keep_memory()
library = ctypes.CDLL(None)
library.malloc.restype, library.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]

def use():
    block = library.malloc(ctypes.c_size_t(100 << 20))
    ctypes.memset(block, 1, 100 << 20)
    library.free(block)

with ThreadPoolExecutor(1) as pool:  # XLA, too, allocates on threads
    pool.submit(use).result()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    pool.submit(use).result()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
    for name in list(os.environ):
        if name.startswith(("MALLOC_", "GLIBC_TUNABLES")):
            monkeypatch.delenv(name)


def faults(how):
    command = [sys.executable, "-c", FAULTS, how]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@glibc
def test_memory_that_was_freed_is_used_again_without_page_faults():
    assert faults("keep") < 1000 < 10_000 < faults("as it is")  # a page has 4 KiB


@glibc
@pytest.mark.parametrize("name", ["MALLOC_ARENA_MAX", "GLIBC_TUNABLES"])
def test_the_users_own_settings_stay(monkeypatch, name):
    monkeypatch.setenv(name, "")
    assert not allocator.keep_memory()


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: object())
    assert not allocator.keep_memory()
