# SPDX-License-Identifier: Apache-2.0
import functools

import jax
import pytest

from flavr_jax.config import ModelConfig
from flavr_jax.models import flavr
from flavr_jax.profiling import trace


# jaxlib 0.12: the type is made on first use, and the warning, were it an error, would abort Python.
@pytest.mark.filterwarnings("ignore:builtin type event_stats:DeprecationWarning")
def test_kernels_are_found_under_the_layers_that_launched_them(tmp_path):
    config = ModelConfig(width=8)
    params = flavr.init(config, jax.random.key(0))
    windows = jax.random.uniform(jax.random.key(1), (1, 4, 32, 32, 3))
    compiled = jax.jit(functools.partial(flavr.apply, config)).lower(params, windows).compile()
    kernels = trace.profile(
        compiled, lambda: jax.block_until_ready(compiled(params, windows)), tmp_path, calls=2
    )
    layers = ["encoder/stem", "encoder/layer4/block1/conv2", "decoder/stage4", "out"]
    times = trace.by_scope(kernels, layers)
    assert all(times[layer] > 0 for layer in layers)
    total = sum(kernel.milliseconds for kernel in kernels)
    assert sum(times.values()) == pytest.approx(total)
    assert [k.milliseconds for k in kernels] == sorted(
        (k.milliseconds for k in kernels), reverse=True
    )


def test_time_goes_to_the_scope_of_that_name_or_to_the_rest():
    kernels = [
        trace.Kernel("a", "jit(f)/decoder/stage1", 2.0, 1.0),
        trace.Kernel("b", "jit(f)/decoder/stage10", 3.0, 1.0),
        trace.Kernel("c", "", 5.0, 1.0),
    ]
    assert trace.by_scope(kernels, ["decoder/stage1"]) == {"decoder/stage1": 2.0, "": 8.0}
