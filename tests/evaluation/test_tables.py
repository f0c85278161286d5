# SPDX-License-Identifier: Apache-2.0
"""Tables of scores, as they are printed."""

import io

import pytest
from rich.console import Console

from flavr_jax.data import sources
from flavr_jax.evaluation import tables
from flavr_jax.evaluation.scoring import Sample


def samples(psnr, *, sequences=("run", "walk"), frames=2, **more):
    """The same PSNR for all frames of a sequence, one more from each sequence to the next."""
    return [
        Sample(name, window, 0.5, {"psnr_flavr": psnr + number, **more}, 0.25)
        for number, name in enumerate(sequences)
        for window in range(frames)
    ]


def printed(table):
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(table)
    return [line.rstrip() for line in console.export_text().splitlines()]


@pytest.fixture
def data_set():
    return sources.data_set("davis-2x")


def test_a_method_has_a_row_with_its_means(data_set):
    lines = printed(tables.of_methods(data_set, {"net": samples(30.0), "average": samples(20.0)}))
    (net,) = (line for line in lines if "net" in line)
    (average,) = (line for line in lines if "average" in line and "20" in line)
    assert "30.50" in net
    assert "20.50" in average
    assert "0.250" in net  # seconds a frame


def test_only_metrics_that_all_methods_have_are_columns(data_set):
    scores = {"net": samples(30.0, lpips=0.1), "average": samples(20.0)}
    assert "LPIPS" not in "".join(printed(tables.of_methods(data_set, scores)))
    scores["average"] = samples(20.0, lpips=0.2)
    text = "".join(printed(tables.of_methods(data_set, scores)))
    assert "LPIPS" in text
    assert "0.2000" in text


def test_the_mean_is_over_sequences_where_the_protocol_has_it(data_set):
    # One sequence of 9 frames at 30 dB, one of 1 frame at 31 dB.
    uneven = samples(30.0, sequences=("run",), frames=9) + samples(
        31.0, sequences=("walk",), frames=1
    )
    assert data_set.average == "sequences"
    assert "30.50" in "".join(printed(tables.of_methods(data_set, {"net": uneven})))
    assert tables.as_json(data_set, {"net": uneven})["methods"]["net"]["mean"]["psnr_flavr"] == 30.5


def test_a_card_counts_what_was_scored(data_set):
    text = "\n".join(printed(tables.card(data_set, {"net": samples(30.0)})))
    assert "davis-2x" in text
    assert "4 frames of 2 sequences" in text
    for heading, _ in data_set.card():
        assert heading in text


def test_sequences_have_a_row_each_and_methods_a_column():
    table = tables.of_sequences({"net": samples(30.0), "average": samples(20.0)})
    assert table is not None
    (walk,) = (line for line in printed(table) if "walk" in line)
    assert walk.index("31.00") < walk.index("21.00")


@pytest.mark.parametrize(("count", "shown"), [(1, False), (2, True), (30, True), (31, False)])
def test_one_sequence_or_more_than_fit_a_screen_have_no_table(count, shown):
    names = tuple(f"clip {number}" for number in range(count))
    table = tables.of_sequences({"net": samples(30.0, sequences=names)})
    assert (table is not None) == shown
