# SPDX-License-Identifier: Apache-2.0
"""MkDocs hooks: pages for Markdown files outside ``docs/``, and the API reference of every package.

README.md, CONTRIBUTING.md and others stay where people look for them and are pages here too; links
are rewritten in both directions. The reference is generated from the source tree, so a new module
appears in it by itself.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]

# Files outside docs/, with the pages that they become.
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "checkpoints/README.md": "checkpoints.md",
    "checkpoints/default/MODEL_CARD.md": "model_card.md",
    "examples/README.md": "examples.md",
}
_SOURCES = {page: source for source, page in PAGES.items()}
_LINK = re.compile(r"(?<!\!)\[([^\]]+)\]\(([^)\s#:]+)(#[^)\s]*)?\)")
_PICTURE = re.compile(r"!\[([^\]]*)\]\(([^)\s:]+)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not files in ``docs/``."""
    for source, page in PAGES.items():
        if (ROOT / source).is_file():
            files.append(File.generated(config, page, content=(ROOT / source).read_text()))
    for page, modules in api_pages().items():
        files.append(File.generated(config, page, content=_reference(page, modules)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Make links between repository files links between pages; others become plain text."""
    uri = page.file.src_uri
    source = _SOURCES.get(uri, f"docs/{uri}")  # path in the repository
    here = posixpath.dirname(uri)

    def page_of(target: str) -> str | None:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        inside = PAGES.get(path, path.removeprefix("docs/") if path.startswith("docs/") else None)
        known = inside is not None and files.get_file_from_path(inside) is not None
        return posixpath.relpath(inside, here or ".") if known and inside else None

    def link(match: re.Match[str]) -> str:
        found = page_of(match[2])
        return match[1] if found is None else f"[{match[1]}]({found}{match[3] or ''})"

    def picture(match: re.Match[str]) -> str:
        return f"![{match[1]}]({page_of(match[2]) or match[2]})"

    if not uri.startswith("api/"):
        markdown = _PICTURE.sub(picture, _LINK.sub(link, markdown))
    return markdown


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Append to the navigation the pages that mkdocs.yml does not name, and the API reference."""
    named = (ROOT / "mkdocs.yml").read_text()
    others: list[Any] = [
        path.name for path in sorted((ROOT / "docs").glob("*.md")) if path.name not in named
    ]
    reference: list[Any] = list(api_pages())
    sections = [*([{"More": others}] if others else []), {"API reference": reference}]
    config.nav = [*(config.nav or []), *sections]
    return config


def api_pages() -> dict[str, list[str]]:
    """Return the modules of each page: one page for each package, by page name."""
    pages: dict[str, list[str]] = {}
    for package in ("flavr_jax", "pallas_kernels"):
        for path in sorted((ROOT / package).rglob("*.py")):
            module = path.relative_to(ROOT).with_suffix("").parts
            if module[-1] == "__init__":
                module = module[:-1]
            # A module in a package goes to the package's page, others to the top level's.
            is_in_package = (ROOT / package / Path(*module[1:2])).is_dir()
            page = f"api/{'.'.join(module[:2] if is_in_package else module[:1])}.md"
            pages.setdefault(page, []).append(".".join(module))
    return pages


def _reference(page: str, modules: list[str]) -> str:
    """Markdown of a reference page, which mkdocstrings fills."""
    title = posixpath.basename(page).removesuffix(".md")
    return "\n\n".join([f"# {title}", *(f"::: {module}" for module in modules)]) + "\n"
