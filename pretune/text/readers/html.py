"""Reads web pages: one record for each file, the text that a browser would show.

What no reader sees (scripts, styles, templates, the head) is left out; blocks and rows of tables stand on lines of
their own, cells are separated by tabs, and white space is kept inside `<pre>` alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from pretune.text.readers.files import Source, SourceConfig
from pretune.text.readers.lines import read_whole
from pretune.text.readers.records import Column, RecordError, SourceRow

SUFFIXES = (".html", ".htm", ".xhtml")
HAS_COLUMNS = False
_UNSEEN: Final = ["script", "style", "template", "noscript", "head", "svg", "math", "iframe", "object"]
_BLOCKS: Final = re.compile(
    "address|article|aside|blockquote|body|caption|d[dlt]|details|dialog|div|fieldset|figcaption|figure|footer|form|"
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
    except (UnicodeError, RecursionError, LookupError) as error:
        reason = (
            "nested too deep" if isinstance(error, RecursionError) else f"not in the encoding that it says: {error}"
        )
        yield RecordError(str(source.path), 0, reason, "save the page again as UTF-8, or leave the file out")


def html_text(page: bytes | str) -> str:
    """The text of a page or of a piece of one.

    Raises:
        UnicodeDecodeError: bytes that are not text in the encoding of the page.
        LookupError: an encoding that Python does not know.
        RecursionError: elements nested too deep.
    """
    from bs4 import BeautifulSoup, Comment  # only where there is a page

    soup = BeautifulSoup(_decode(page) if isinstance(page, bytes) else page, "html.parser")
    for element in soup(_UNSEEN):
        element.decompose()
    as_written = {id(string) for element in soup("pre") for string in element.find_all(string=True)}
    for string in soup.find_all(string=True):
        if isinstance(string, Comment) or type(string).__name__ in ("Doctype", "ProcessingInstruction", "Declaration"):
            string.extract()
        elif id(string) not in as_written:
            string.replace_with(re.sub(r"\s+", " ", string))
    for element in soup("br"):
        element.replace_with("\n")
    for element in soup(["td", "th"]):
        element.append("\t")
    for element in soup(lambda tag: _BLOCKS.fullmatch(tag.name) is not None):
        element.insert_before("\n")
        element.insert_after("\n")
    lines = [re.sub(r" *\t *", "\t", line).rstrip() for line in soup.get_text().split("\n")]
    text = "\n".join(line if line.startswith("  ") else line.strip() for line in lines)
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
