# SPDX-License-Identifier: Apache-2.0
import os
import tempfile

# Tests compile much and compute little: LLVM's optimisations would cost more than they save.
os.environ["XLA_FLAGS"] = " ".join(
    [os.environ.get("XLA_FLAGS", ""), "--xla_backend_optimization_level=0"]
)
# Compiled programs of a test run stay out of the user's cache; set before jax is imported.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", os.path.join(tempfile.gettempdir(), "flavr_jax_test_cache")
)

import jax
import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if jax.default_backend() == "gpu":
        return
    skip = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)
