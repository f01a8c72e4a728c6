"""What the site adds to its pages: links that leave `docs/`, the fields of a recipe, the cells of a notebook."""

from __future__ import annotations

import json
import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

_LINK = re.compile(r"(\]\()([^)#:\s]+)(#[^)\s]*)?(\))")
_NOTEBOOK = re.compile(r"<!-- cells of ([\w.-]+) -->")
_OPTIONAL = re.compile(r"\[(?=--\w)")  # of "[--field value]", which is no link
_FIELDS = "<!-- fields of a recipe -->"


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Completes the text of a page before it is rendered."""
    markdown = _NOTEBOOK.sub(lambda match: cells(Path(config.docs_dir) / match[1]), markdown)
    if _FIELDS in markdown:
        markdown = markdown.replace(_FIELDS, recipe_fields())
    if page.file.src_uri.startswith("reference/cli"):
        markdown = _OPTIONAL.sub(r"\\[", markdown)
    return _LINK.sub(lambda match: _outside(match, page.file.src_uri, f"{config.repo_url}/blob/main"), markdown)


def _outside(match: re.Match[str], page: str, repository: str) -> str:
    """Leads a link to a file beside `docs/` to the repository; others stay."""
    target = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), match[2]))
    if target.startswith("docs/"):
        return match[0]
    return f"{match[1]}{repository}/{target}{match[3] or ''}{match[4]}"


def cells(path: Path) -> str:
    """The cells of a notebook as Markdown, without the outputs; mkdocs-jupyter would install 60 packages for it."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    texts = (("".join(cell["source"]), cell["cell_type"] == "code") for cell in notebook["cells"])
    return "\n\n".join(f"```python\n{text}\n```" if is_code else text for text, is_code in texts)


def recipe_fields() -> str:
    """Every field of a recipe, as `--help` shows it."""
    from pretune.cli.fields import describe
    from pretune.train.recipe import Recipe

    return f"```\n{describe(Recipe)}\n```"
