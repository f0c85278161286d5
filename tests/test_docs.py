# SPDX-License-Identifier: Apache-2.0
"""The documentation names files, headings and extras that exist."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXTS = [
    path
    for pattern in ("*.md", "docs/*.md", "checkpoints/README.md", "checkpoints/default/*.md",
                    "examples/*.md", "tests/golden/*.md")
    for path in sorted(ROOT.glob(pattern))
]  # fmt: skip
TOPS = "flavr_jax|pallas_kernels|scripts|tests|configs|docs|examples"


@pytest.fixture(params=TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def text(request):
    return request.param


def test_links_lead_to_files(text):
    targets = re.findall(r"\]\(([^)\s:#]+)(?:#[^)\s]*)?\)", text.read_text())
    missing = [target for target in targets if not (text.parent / target).exists()]
    assert not missing


def test_paths_in_the_source_tree_exist(text):
    paths = set(re.findall(rf"(?<![\w/])((?:{TOPS})/[\w./-]*\w)", text.read_text()))
    missing = {path for path in paths if not (ROOT / path).exists()}
    # Folders may be outputs of commands, and capitals are placeholders such as configs/NAME.toml.
    assert not {path for path in missing if re.search(r"[a-z]\.(py|toml|md|json|txtpb)$", path)}


def test_headings_that_links_name_exist(text):
    for target, heading in re.findall(r"\]\(([^)\s:#]*)#([^)\s]+)\)", text.read_text()):
        page = (text.parent / target).resolve() if target else text
        titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
        slugs = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
        assert heading in slugs, f"{target}#{heading}"


def test_pages_that_the_navigation_names_exist():
    named = re.findall(r"^ +- (?:.*: )?(\w+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    elsewhere = re.findall(r': "(\w+\.md)"', (ROOT / "docs/hooks.py").read_text())
    assert len(named) > 10
    for name in named:
        assert name in elsewhere or (ROOT / "docs" / name).is_file(), name


def test_the_readme_has_the_two_commands_of_a_fresh_machine():
    lines = (ROOT / "README.md").read_text().splitlines()
    commands = [line for line in lines if line.startswith("pip install")]
    assert commands[0] == "pip install -e . && python scripts/interpolate.py --factor 8"
    assert commands[1] == 'pip install -e ".[test]" && python -m pytest -n 2'
    assert r"^pip install .*\[test\].*pytest" in (ROOT / ".ci/run").read_text()


def test_extras_that_texts_name_exist(text):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    for named in re.findall(r"\"?(?:\.|flavr-jax)\[([\w,]+)\]", text.read_text()):
        assert set(named.split(",")) <= set(extras), named


def test_the_source_tree_in_contributing_has_every_room():
    tree = (ROOT / "CONTRIBUTING.md").read_text().split("```")[3]
    for package in ("flavr_jax", "pallas_kernels"):
        for path in (ROOT / package).iterdir():
            name = f"{path.name}/" if path.is_dir() else path.stem
            if not name.startswith("_"):
                assert re.search(rf"(?<![\w/]){re.escape(name)}(?!\w)", tree), path
