# SPDX-License-Identifier: Apache-2.0
import csv
import dataclasses
import json

import imageio.v3 as imageio
import numpy as np
import pytest

from flavr_jax import evaluation
from flavr_jax.data import sources
from flavr_jax.data.sequences import regular
from flavr_jax.evaluation import tables

PSNR = {"psnr_flavr": evaluation.METRICS["psnr_flavr"]}


@dataclasses.dataclass
class Clip:
    name: str

    def __len__(self):
        return 13

    def read(self, index):
        return np.full((16, 32, 3), 10 * index, np.uint8)

    def encoded(self, index):
        raise NotImplementedError


def off_by_windows(sequence):
    """Off by 1/20 in the first window, 2/20 in the second, and so on."""
    for window, truth in enumerate(sequence.truths(), 1):
        yield truth.astype(np.float32) / 255 + window / 20


@pytest.fixture
def scored():
    worst = evaluation.WorstCases(count=2)
    sequences = [regular(Clip("walk"), 2), regular(Clip("run"), 2)]
    return worst, evaluation.score(off_by_windows, sequences, PSNR, watch=[worst.watch])


def test_the_csv_has_a_line_a_frame(tmp_path, scored):
    evaluation.write_csv(tmp_path / "scores.csv", {"davis-2x/net (float32)": scored[1]})
    lines = list(csv.DictReader((tmp_path / "scores.csv").open()))
    assert len(lines) == 8
    assert lines[5]["sequence"] == "run"
    assert lines[5]["method"] == "net (float32)"
    assert (lines[5]["window"], lines[5]["time"]) == ("1", "0.5")
    assert float(lines[5]["psnr_flavr"]) == pytest.approx(20.0, abs=1e-4)
    assert [path.name for path in tmp_path.iterdir()] == ["scores.csv"]


def test_the_sheet_shows_the_worst_frames_between_their_neighbours(tmp_path, scored):
    worst, _ = scored
    worst.write(tmp_path / "worst.png")
    sheet = imageio.imread(tmp_path / "worst.png")
    rows = sheet.shape[0] // 2
    assert sheet.shape[1] == 5 * 320
    middle = sheet[rows - 80, 160::320].astype(int)  # of the last of the worst two: window 3
    # Window 3 has inputs 6, 8, 10, 12; between 8 and 10 lies 9; 4/20 of 255 are 51 levels.
    np.testing.assert_array_equal(middle[:, 0], [80, 90 + 51, 90, 100, 4 * 51])


def test_the_sheet_shows_several_sequences():
    def off_on_walks(sequence):
        for truth in sequence.truths():
            yield truth.astype(np.float32) / 255 + (0.3 if sequence.clip.name == "walk" else 0.1)

    worst = evaluation.WorstCases(count=3, of_a_sequence=2)
    sequences = [regular(Clip(name), 2) for name in ("walk", "run", "swim")]
    evaluation.score(off_on_walks, sequences, PSNR, watch=[worst.watch])
    assert [case.sample.sequence for case in worst._frames][:2] == ["walk", "walk"]
    assert len(worst._frames) == 3


def test_a_sheet_of_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no scored frames"):
        evaluation.WorstCases().write(tmp_path / "worst.png")


def test_predictions_are_written_as_they_would_be_seen(tmp_path):
    writer = evaluation.PredictionWriter(tmp_path)
    evaluation.score(off_by_windows, [regular(Clip("a/b"), 4)], PSNR, watch=[writer.watch])
    found = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png"))
    assert found == [f"a/b/0000_{k}of4.png" for k in (1, 2, 3)]
    frame = imageio.imread(tmp_path / "a/b/0000_2of4.png")
    np.testing.assert_array_equal(frame, round(60 + 255 / 20))


def test_tables_carry_the_card_and_the_means(scored):
    data_set = sources.data_set("davis-2x")
    scores = {"net": scored[1]}
    card = dict(data_set.card())
    assert card["crop"] == "centre 480×840"
    assert card["average"] == "over sequences"
    report = json.loads(json.dumps(tables.as_json(data_set, scores)))
    assert report["protocol"] == card
    errors = np.arange(1, 5) / 20
    expected = (-20 * np.log10(errors)).mean()
    assert report["methods"]["net"]["mean"]["psnr_flavr"] == pytest.approx(expected, abs=1e-3)
    assert set(report["methods"]["net"]["sequences"]) == {"walk", "run"}
    assert tables.of_methods(data_set, scores).row_count == 1
    by_sequence = tables.of_sequences(scores)
    assert by_sequence is not None
    assert by_sequence.row_count == 2
    assert tables.of_sequences(scores, at_most=1) is None
