# SPDX-License-Identifier: Apache-2.0
import pytest

from flavr_jax.profiling import step_profile
from tests.training.toys import Line, Points, recipe


@pytest.mark.parametrize(
    ("scope", "part", "backward"),
    [
        ("jit(_fun)/batch/vmap()/while/body", "batch", False),
        ("jit(_fun)/optimizer/vmap(jit(norm))", "optimizer", False),
        ("jit(_fun)/jvp(lpips)/jit(lpips)", "lpips", False),
        ("jit(_fun)/transpose(jvp(charbonnier))", "charbonnier", True),
        ("jit(_fun)/jvp(encoder)/layer4/block0/conv2/jit(_launch)", "encoder/layer4", False),
        ("jit(_fun)/transpose(jvp(head))/look2/transpose()", "head/look2", True),
        ("jit(_fun)/transpose(jvp(head))/jit(_differentiate)", "head", True),
        ("jit(_fun)/transpose(jvp(out))/jit(_launch)/out_of_scope", "out", True),
        ("jit(_fun)/jvp()/sub", "", False),
        ("", "", False),
    ],
)
def test_a_kernel_belongs_to_the_part_whose_scope_contains_it(scope, part, backward):
    assert step_profile.part_of(scope) == (part, backward)


# jaxlib 0.12: the type is made on first use, and the warning, were it an error, would abort Python.
@pytest.mark.filterwarnings("ignore:builtin type event_stats:DeprecationWarning")
def test_the_parts_of_a_step_are_found_in_its_trace(tmp_path):
    found = step_profile.profile_step(
        recipe(), Line(ballast=100_000), Points(), tmp_path, seconds=0.01
    )
    assert found.windows == 8
    assert found.seconds > 0
    assert {"batch", "optimizer"} <= {part.name for part in found.parts}
    times = [part.milliseconds for part in found.parts]
    assert times == sorted(times, reverse=True)
    assert min(times) > 0
    # A step runs several times, and its kernels are counted for one.
    assert sum(part.launches for part in found.parts) < 200
    assert [*tmp_path.rglob("*.xplane.pb")]
