"""The site: it builds without a broken link, holds every page, and says the same in both languages."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
TRANSLATED = sorted(path for path in DOCS.rglob("*.zh.md"))


def hooks() -> Any:
    """The module that completes pages, which is no part of a package."""
    spec = importlib.util.spec_from_file_location("site_hooks", DOCS / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def leaves(tree: Any) -> set[str]:
    """The pages of a navigation."""
    if isinstance(tree, str):
        return {tree}
    return {page for part in (tree.values() if isinstance(tree, dict) else tree) for page in leaves(part)}


def fenced(path: Path) -> list[str]:
    """The commands and programs of a page, without comments, which are translated."""
    blocks = re.findall(r"```(?:sh|python|toml)\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)
    return [re.sub(r"\s*#.*", "", line) for block in blocks for line in block.splitlines()]


def test_navigation_holds_every_page() -> None:
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert leaves(config["nav"]) == {page for page in pages if not page.endswith(".zh.md")}


def test_navigation_is_translated() -> None:
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    languages = next(plugin["i18n"] for plugin in config["plugins"] if "i18n" in plugin)["languages"]
    titles = {title for part in config["nav"] for title in part}
    titles |= {
        title for part in config["nav"] for pages in part.values() for p in pages if isinstance(p, dict) for title in p
    }
    assert titles <= set(languages[1]["nav_translations"])


@pytest.mark.parametrize("path", TRANSLATED, ids=lambda path: path.name)
def test_translation_says_the_same(path: Path) -> None:
    english = path.with_name(path.name.replace(".zh.md", ".md"))
    assert fenced(path) == fenced(english)
    for mark in ("\n## ", "\n| ", "\n- "):
        assert path.read_text(encoding="utf-8").count(mark) == english.read_text(encoding="utf-8").count(mark), mark


def test_every_page_of_the_guide_is_translated() -> None:
    pages = {path for path in (DOCS / "guide").glob("*.md") if not path.name.endswith(".zh.md")}
    assert {path.with_name(f"{path.stem}.zh.md") for path in pages} <= set(TRANSLATED)


def test_links_that_leave_the_pages_lead_to_the_repository() -> None:
    module = hooks()

    def rewritten(text: str) -> str:
        return module._LINK.sub(lambda match: module._outside(match, "guide/models.md", "https://r/blob/main"), text)

    assert rewritten("[a](../../README.md#use)") == "[a](https://r/blob/main/README.md#use)"
    assert rewritten("[a](../families.md#bert)") == "[a](../families.md#bert)"
    assert rewritten("[a](https://x.org/../b) [b](#here)") == "[a](https://x.org/../b) [b](#here)"


@pytest.mark.slow
def test_site_builds(tmp_path: Path) -> None:
    for name in ("mkdocs", "material", "mkdocs_static_i18n", "mkdocstrings"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"no {name}; make docs installs it")
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for page in ("index.html", "reference/cli.html", "zh/index.html", "zh/guide/install.html"):
        assert (tmp_path / "site" / page).is_file()
    assert "--optimizer.lr NUMBER" in (tmp_path / "site" / "reference" / "recipe.html").read_text(encoding="utf-8")
