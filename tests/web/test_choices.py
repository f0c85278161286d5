# SPDX-License-Identifier: Apache-2.0
"""A visitor's choices become arguments that ``flavr interpolate`` understands."""

import sys
from fractions import Fraction

import pytest

from flavr_jax import cli
from flavr_jax.commands import interpolate
from flavr_jax.video.files.formats import CONTAINERS
from flavr_jax.web.choices import CODECS, Choices
from flavr_jax.web.limits import Refused


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ({}, (8, None, False)),
        ({"mode": "smoother", "factor": "2", "fps": "60"}, (2, None, False)),
        ({"mode": "slower", "factor": "4", "fps": ""}, (4, None, True)),
        ({"mode": "slower", "factor": "4", "fps": "30"}, (4, Fraction(30), True)),
        ({"mode": "rate", "fps": "60000/1001"}, (None, Fraction(60000, 1001), False)),
        ({"mode": "rate", "fps": " 23.976 "}, (None, Fraction(2997, 125), False)),
    ],
)
def test_the_engine_gets_what_the_form_says(parsed, form, expected):
    choices = Choices.parse({**form, "dedup": "1", "codec": "av1", "report": "1"})
    options = parsed("in.mp4", *choices.arguments)
    motion = options.motion
    assert motion == choices.motion
    assert (motion.factor, motion.fps, motion.slow_motion) == expected
    assert motion.dedup
    assert options.encoding.codec == "av1"
    assert options.output.report
    assert options.output.compare
    assert options.output.browser


@pytest.fixture
def parsed(monkeypatch):
    """Returns the options that ``flavr interpolate`` reads from its arguments."""

    def parsed(*arguments):
        found = []
        monkeypatch.setattr(sys, "argv", ["flavr interpolate", *arguments])
        with pytest.raises(SystemExit):
            cli.run(found.append, interpolate.Options)
        return found[0]

    return parsed


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"mode": "backwards"}, "`mode` is 'backwards'"),
        ({"factor": "3"}, "`factor` is '3'; it is 2, 4, 8, 16"),
        ({"codec": "raw"}, "`codec` is 'raw'"),
        ({"mode": "rate"}, "from 1 to 240"),
        ({"mode": "rate", "fps": "1e999999999"}, "from 1 to 240"),
        ({"mode": "rate", "fps": "1/0"}, "from 1 to 240"),
        ({"mode": "rate", "fps": "241"}, "from 1 to 240"),
        ({"mode": "slower", "fps": "--output=x"}, "from 1 to 240"),
    ],
)
def test_impossible_choices_are_explained(form, message):
    with pytest.raises(Refused, match=message.replace("(", r"\(")):
        Choices.parse(form)


@pytest.mark.parametrize("codec", CODECS)
def test_every_codec_fits_its_container(codec):
    assert codec in CONTAINERS[CODECS[codec][1]].holds


def test_time_is_stretched_by_slow_motion_alone():
    assert Choices("slower", 4).stretch == 4
    assert Choices("smoother", 4).stretch == Choices("rate", fps=Fraction(60)).stretch == 1
