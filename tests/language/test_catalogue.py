"""The Chinese catalogue says all that the source may say, with the same values, and is compiled."""

from __future__ import annotations

import io
import re
import time
from functools import cache

import pytest

from pretune.language import CATALOGUES
from pretune.language.templates import Renderer

pytest.importorskip("babel")

from babel.messages.catalog import Catalog
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po

FOLDER = CATALOGUES / "zh" / "LC_MESSAGES"
REMEDY = "run `make messages`, and translate what is new in pretune/locale/zh/LC_MESSAGES/pretune.po"
HOLE = re.compile(r"(?<!\{)\{(\w+)(?::[nc])?\}(?!\})")


@cache
def catalogue() -> Catalog:
    with (FOLDER / "pretune.po").open("rb") as file:
        return read_po(file, locale="zh")


def test_translations_have_the_same_holes() -> None:
    entries = ((str(entry.id), str(entry.string)) for entry in catalogue() if entry.id and entry.string)
    assert [(a, b) for a, b in entries if set(HOLE.findall(a)) != set(HOLE.findall(b))] == []


def test_it_is_read_in_no_time() -> None:
    began = time.process_time()
    Renderer((str(entry.id), str(entry.string)) for entry in catalogue() if entry.id)
    assert time.process_time() - began < 0.4


def test_none_is_marked_as_uncertain() -> None:
    assert [entry.id for entry in catalogue() if entry.fuzzy and entry.id] == []


def test_what_is_read_is_what_was_compiled() -> None:
    compiled = io.BytesIO()
    write_mo(compiled, catalogue())
    assert (FOLDER / "pretune.mo").read_bytes() == compiled.getvalue(), REMEDY
