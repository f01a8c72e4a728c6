"""Reads web pages: one record for each file, the text that a browser would show.

What no reader sees (scripts, styles, templates, the head) is left out; blocks and rows of tables stand on lines of
their own, cells are separated by tabs, and white space is kept inside `<pre>` alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from typing import Final

from pretune.text.readers.files import Source, SourceConfig
from pretune.text.readers.lines import read_whole
from pretune.text.readers.records import Column, RecordError, SourceRow

SUFFIXES = (".html", ".htm", ".xhtml")
HAS_COLUMNS = False
_CODE: Final = frozenset({"script", "style"})
_UNSEEN: Final = _CODE | {"template", "noscript", "head", "svg", "iframe", "object"}
_VOID: Final = frozenset({"br", "hr"})  # of `<br/>` the library tells a beginning and an end
_BLOCK: Final = re.compile(
    "address|article|aside|blockquote|body|br|caption|d[dlt]|details|dialog|div|fieldset|figcaption|figure|footer|form|"
    "h[1-6r]|header|li|main|nav|[ou]l|option|p|pre|section|summary|table|tbody|tfoot|thead|tr"
)


def read(source: Source, columns: Sequence[Column], config: SourceConfig) -> Iterator[SourceRow | RecordError]:
    """One record, the page; the first of `columns` holds it, whatever it is called.

    The encoding is the one that the page declares, as browsers find it; of a page that declares none, UTF-8.
    """
    raw = read_whole(source, config)
    if isinstance(raw, RecordError):
        yield raw
        return
    try:
        yield 1, {columns[0].name: html_text(raw)}
    except (UnicodeError, LookupError) as error:
        reason = f"not in the encoding that it says: {error}"
        yield RecordError(str(source.path), 0, reason, "save the page again as UTF-8, or leave the file out")
    except AssertionError as error:  # of the library, for a declaration that is none
        yield RecordError(str(source.path), 0, f"not HTML: {error}", "fix the declaration, or leave the file out")


def html_text(page: bytes | str) -> str:
    """The text of a page or of a piece of one.

    Raises:
        UnicodeDecodeError: bytes that are not text in the encoding of the page.
        LookupError: an encoding that Python does not know.
    """
    text, unseen = _decode(page) if isinstance(page, bytes) else page, _UNSEEN
    while True:
        parser = _PageText(unseen)
        parser.feed(text)
        parser.close()
        unclosed = set(parser.unseen) - _CODE
        if not unclosed:
            return parser.text()
        unseen = unseen - unclosed  # what is never closed hides nothing, else the rest of the page would be lost


class _PageText(HTMLParser):
    """Collects what a page shows, in one pass: the time grows with the page alone, whatever is open in it."""

    def __init__(self, hidden: frozenset[str]) -> None:
        super().__init__()
        self._hidden = hidden
        self._parts: list[str] = []
        self.unseen: list[str] = []  # elements that are open and hide what is in them
        self._pre = 0
        self._has_cell = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "body":
            self.unseen.clear()  # a head need not be closed
        if tag in self._hidden:
            self.unseen.append(tag)
        elif tag in ("td", "th"):
            self._parts += ["\t"] if self._has_cell else []
            self._has_cell = True
        elif _BLOCK.fullmatch(tag):
            self._parts.append("\n")
            self._pre += tag == "pre"
            self._has_cell = self._has_cell and tag != "tr"

    def handle_endtag(self, tag: str) -> None:
        if tag in self.unseen:
            del self.unseen[self.unseen.index(tag) :]
        elif tag not in _VOID and _BLOCK.fullmatch(tag):
            self._parts.append("\n")
            self._pre -= tag == "pre" and self._pre > 0

    def handle_data(self, data: str) -> None:
        if self.unseen:
            return
        if not self._pre:
            data = re.sub(r"\s+", " ", data)
            if data.startswith(" ") and (not self._parts or self._parts[-1][-1:].isspace()):
                data = data[1:]
        if data:
            self._parts.append(data)

    def text(self) -> str:
        """What was collected: no white space at the ends of lines, no more than one empty line in a row."""
        text = re.sub(r"[^\S\n]+(?=\n|\Z)", "", "".join(self._parts))
        return re.sub(r"\n{3,}", "\n\n", text).strip("\n")


_CHARSET: Final = re.compile(rb"""<(?:meta|\?xml)[^>]*?(?:charset|encoding)\s*=\s*["']?\s*([\w.:-]+)""", re.IGNORECASE)


def _decode(page: bytes) -> str:
    """The characters of a page: by its byte order mark, else by what it declares, else as UTF-8."""
    if page.startswith(b"\xef\xbb\xbf"):
        return page[3:].decode()
    if page.startswith((b"\xff\xfe", b"\xfe\xff")):
        return page.decode("utf-16")
    declared = _CHARSET.search(page[:4096])
    encoding = "utf-8" if declared is None else declared[1].decode().lower()
    return page.decode({"gb2312": "gb18030", "gbk": "gb18030", "iso-8859-1": "cp1252"}.get(encoding, encoding))
