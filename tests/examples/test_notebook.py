# SPDX-License-Identifier: Apache-2.0
"""The notebook runs from top to bottom, in a folder of its own."""

import re
from pathlib import Path

import pytest

nbclient = pytest.importorskip("nbclient", reason="the extra test installs it on Linux")
nbformat = pytest.importorskip("nbformat")

NOTEBOOK = Path(__file__).parents[2] / "examples" / "quickstart.ipynb"
# Compiling the training step takes long; with half the layers it takes half as long.
SHALLOW = """
from flavr_jax.config import ModelConfig
from flavr_jax.models import flavr
ModelConfig.blocks = (1, 1, 1, 1)
flavr._skeleton.cache_clear()
"""


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    """The cells of the notebook after a run."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    (training,) = (n for n, cell in enumerate(notebook.cells) if "loop.train(" in cell.source)
    notebook.cells.insert(training, nbformat.v4.new_code_cell(SHALLOW))
    resources = {"metadata": {"path": str(tmp_path_factory.mktemp("empty"))}}
    client = nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources=resources
    )
    client.execute()  # raises if a cell fails
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source != SHALLOW]


def outputs(cell, kind):
    """The outputs of a cell in a format, such as text/html."""
    data = [output.get("data", {}) for output in cell.outputs]
    return [each[kind] for each in data if kind in each]


def test_the_clip_is_shown_before_and_after(cells):
    assert "(9, 128, 224, 3) → (33, 128, 224, 3)" in cells[1].outputs[0].text
    [html] = outputs(cells[2], "text/html")
    assert html.count("data:image/webp;base64,") == 2


def test_the_error_is_drawn_and_smaller_than_that_of_averaging(cells):
    assert len(outputs(cells[3], "image/png")) == 1
    made, averaged = map(float, re.findall(r"([\d.]+) dB", cells[3].outputs[0].text))
    assert made > averaged + 2


def test_the_training_ends_in_a_checkpoint_that_loads(cells):
    assert len(outputs(cells[4], "image/png")) == 1
    assert outputs(cells[5], "text/plain") == ["(7, 32, 32, 3)"]


def test_the_stored_notebook_has_no_outputs():
    stored = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(stored)
    assert not any(cell.get("outputs") for cell in stored.cells)
