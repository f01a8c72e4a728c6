"""The Chinese catalogue says all that the source may say, with the same values."""

from __future__ import annotations

import re
import time
from functools import cache
from pathlib import Path

import pytest

from pretune.language import CATALOGUES
from pretune.language.catalogue import read_catalogue
from pretune.language.extract import extract
from pretune.language.templates import Renderer

pytest.importorskip("babel")

from babel.messages.catalog import Catalog
from babel.messages.extract import extract_from_dir
from babel.messages.frontend import parse_mapping_cfg
from babel.messages.pofile import read_po

ROOT = Path(__file__).parents[2]
FOLDER = CATALOGUES / "zh" / "LC_MESSAGES"
REMEDY = "run `make messages`, and translate what is new in pretune/locale/zh/LC_MESSAGES/pretune.po"
HOLE = re.compile(r"(?<!\{)\{(\w+)(?::[nc])?\}(?!\})")


@cache
def catalogue() -> Catalog:
    with (FOLDER / "pretune.po").open("rb") as file:
        return read_po(file, locale="zh")


@cache
def extracted() -> set[str]:
    """What Babel extracts as babel.cfg tells it to."""
    with (ROOT / "babel.cfg").open() as file:
        methods, options = parse_mapping_cfg(file)
    methods = [(pattern, extract if method.endswith(":extract") else method) for pattern, method in methods]
    return {message[2] for message in extract_from_dir(str(ROOT), methods, options)}  # type: ignore[arg-type]


def test_every_message_is_translated() -> None:
    missing = [text for text in extracted() if not (entry := catalogue().get(text)) or not entry.string]
    assert not missing, f"{REMEDY}:\n" + "\n".join(sorted(missing)[:40])


def test_nothing_is_translated_that_is_not_said() -> None:
    assert {str(entry.id) for entry in catalogue() if entry.id} - extracted() == set(), REMEDY


def test_translations_have_the_same_holes() -> None:
    entries = ((str(entry.id), str(entry.string)) for entry in catalogue() if entry.id and entry.string)
    assert [(a, b) for a, b in entries if set(HOLE.findall(a)) != set(HOLE.findall(b))] == []


def test_it_is_read_in_no_time() -> None:
    began = time.process_time()
    Renderer(read_catalogue(FOLDER / "pretune.po"))
    assert time.process_time() - began < 0.4


def test_none_is_marked_as_uncertain() -> None:
    assert [entry.id for entry in catalogue() if entry.fuzzy and entry.id] == []


def test_it_is_read_as_babel_reads_it() -> None:
    entries = {str(entry.id): str(entry.string) for entry in catalogue() if entry.id}
    assert dict(read_catalogue(FOLDER / "pretune.po")) == entries
