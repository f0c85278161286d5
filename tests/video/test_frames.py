# SPDX-License-Identifier: Apache-2.0
from fractions import Fraction

import pytest

from flavr_jax.video import frames


@pytest.mark.parametrize(
    ("text", "rate"),
    [("24", Fraction(24)), ("23.976", Fraction(2997, 125)), ("24000/1001", Fraction(24000, 1001))],
)
def test_a_rate_is_read_exactly_as_written(text, rate):
    assert frames.parse_rate(text) == rate


@pytest.mark.parametrize("text", ["0", "-5", "1/0", "fast", ""])
def test_a_rate_that_is_none_is_an_error(text):
    with pytest.raises(ValueError, match="frame rate"):
        frames.parse_rate(text)
