"""Reads Markdown: one record for each file, its text without the signs that format it.

Headings, paragraphs, items of lists and rows of tables stand on lines of their own; code stays as it is; of links and
pictures the words stay, and front matter (`---`, `key: value` ..., `---` at the top) is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from pretune.text.readers.files import Source, SourceConfig
from pretune.text.readers.html import html_text
from pretune.text.readers.lines import read_whole
from pretune.text.readers.records import Column, RecordError, SourceRow

if TYPE_CHECKING:
    from markdown_it.token import Token

SUFFIXES = (".md", ".markdown")
HAS_COLUMNS = False
_FRONT_MATTER: Final = re.compile(
    r"\A---[ \t]*\r?\n(?:#[^\n]*\n)*[^\s:#][^\n:]*:(?:[ \t\r\n]).*?^(?:---|\.\.\.)[ \t]*$\r?\n?",
    re.DOTALL | re.MULTILINE,
)
_BREAK: Final = re.compile(r"<br\b", re.IGNORECASE)


def read(source: Source, columns: Sequence[Column], config: SourceConfig) -> Iterator[SourceRow | RecordError]:
    """One record, the file; the first of `columns` holds it, whatever it is called."""
    raw = read_whole(source, config, is_text=True)
    yield raw if isinstance(raw, RecordError) else (1, {columns[0].name: markdown_text(raw.decode())})


def markdown_text(page: str) -> str:
    """The text of a Markdown page (CommonMark, with tables)."""
    from markdown_it import MarkdownIt  # only where there is a page

    out: list[str] = []
    for token in MarkdownIt("commonmark").enable("table").parse(_FRONT_MATTER.sub("", page)):
        if token.type == "inline":
            out.append(_inline(token.children or ()))
        elif token.type in ("fence", "code_block"):
            out.append(f"{token.content.rstrip()}\n\n")
        elif token.type == "html_block":
            out.append(f"{html_text(token.content)}\n\n")
        elif token.type in ("th_close", "td_close"):
            out.append("\t")
        elif token.type == "tr_close":
            out.append("\n")
        elif token.type in ("heading_close", "paragraph_close", "list_item_close", "table_close"):
            out.append("\n" if token.hidden or token.type == "list_item_close" else "\n\n")
    text = re.sub(r"\t+\n", "\n", "".join(out))
    return re.sub(r"\n{3,}", "\n\n", text).strip("\n")


def _inline(tokens: Sequence[Token]) -> str:
    """The words of a paragraph: those of links and pictures too, not the tags of HTML."""
    return "".join(map(_word, tokens))


def _word(token: Token) -> str:
    if token.type == "html_inline":
        return "\n" if _BREAK.match(token.content) else ""
    return "\n" if token.type in ("softbreak", "hardbreak") else token.content
