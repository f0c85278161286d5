# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest

from tests.video.files.films import write_film


@pytest.fixture
def film(tmp_path: Path):
    """Writes a film with sound, subtitles, attachments and chapters; returns its path."""
    return lambda name="in.mkv", **options: write_film(tmp_path / name, **options)
