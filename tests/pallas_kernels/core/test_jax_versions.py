# SPDX-License-Identifier: Apache-2.0
import types

import pytest

from pallas_kernels.core.jax_versions import ask_ptxas_once


def test_the_assembler_is_asked_for_its_version_once():
    asked = []

    def version():
        asked.append(None)
        return 90

    extension = types.SimpleNamespace(_get_ptxas_isa_version=version)
    ask_ptxas_once(types.SimpleNamespace(_mosaic_gpu_ext=extension))
    assert [extension._get_ptxas_isa_version() for _ in range(3)] == [90, 90, 90]
    assert len(asked) == 1


@pytest.mark.parametrize("library", [None, types.SimpleNamespace()])
def test_versions_of_jax_without_that_question_are_left_alone(library):
    ask_ptxas_once(library)
