"""Reads questions about texts, as SQuAD 1.1 and 2.0, XQuAD, CMRC 2018 and DRCD have them: one JSON object a file.

    {"data": [{"title": ..., "paragraphs": [{"context": ..., "qas": [
        {"id": ..., "question": ..., "answers": [{"text": ..., "answer_start": 269}], "is_impossible": false}]}]}]}

Each question gives a record: `id`, `title`, `text` (the context), `question` and `answers` (`start` in characters, and
`text`; none where the text has no answer). The array of CMRC's own files (`context_text`, `query_text`, answers without
places) is read too, and starts that count a character beyond the Basic Multilingual Plane twice, as CMRC's do, are
those of the text where it has the answer there. The line in messages is the number of the question in the file, from 1.

Source: Rajpurkar et al. 2016 (arXiv 1606.05250) and 2018 (arXiv 1806.03822); Cui et al. 2019 (arXiv 1810.07366).
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pretune.text.readers.files import Source, SourceConfig, UnreadableError, read_chunks
from pretune.text.readers.records import Column, RecordError, SourceRow, absent

SUFFIXES = ()
_CHUNK = 1 << 20
_KEYS = (re.compile(rb'"data"\s*:\s*\['), re.compile(rb'"paragraphs"\s*:\s*\['))


def read(source: Source, columns: Sequence[Column], config: SourceConfig) -> Iterator[SourceRow | RecordError]:
    """A record for each question."""
    file = str(source.path)
    try:
        raw = b"".join(read_chunks(source, _CHUNK, config.max_compression_ratio))
        content = json.loads(raw.decode("utf-8-sig"))
    except UnreadableError as error:
        yield RecordError(file, 0, str(error), "fetch or write the file again")
        return
    except (ValueError, RecursionError) as error:
        yield RecordError(file, 0, f"not JSON: {error}", "fetch or write the file again, or set another --format")
        return
    required = [column for column in columns if column.required]
    number = 0
    try:
        for number, record in enumerate(_records(content), 1):
            missing = absent(file, number, required, record, "field")
            yield (number, record) if missing is None else missing
    except (KeyError, TypeError, AttributeError) as error:
        what = f"no field {error}" if isinstance(error, KeyError) else str(error)
        reason = f"not a file of SQuAD: {what}"
        yield RecordError(file, number + 1, reason, "give it data, paragraphs with context and qas, each a question")


def is_squad(source: Source, config: SourceConfig) -> bool:
    """Whether a file begins as those of SQuAD do; what cannot be read does not."""
    try:
        start = next(read_chunks(source, _CHUNK, config.max_compression_ratio), b"")
    except UnreadableError:
        return False
    return start.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"{") and all(key.search(start) for key in _KEYS)


def names(source: Source, config: SourceConfig) -> list[str]:
    """The names of the fields of every record."""
    return ["id", "title", "text", "question", "answers"]


def _records(content: Any) -> Iterator[Mapping[str, object]]:
    """The questions of a parsed file.

    Raises:
        KeyError, TypeError, AttributeError: it has not the fields of such a file.
    """
    if isinstance(content, list):  # of CMRC's own form
        for item in content:
            yield from _questions(item.get("title"), item["context_text"], item["qas"], ("query_id", "query_text"))
        return
    for article in content["data"]:
        for paragraph in article["paragraphs"]:
            yield from _questions(article.get("title"), paragraph["context"], paragraph["qas"], ("id", "question"))


def _questions(
    title: object, text: object, items: Sequence[Mapping[str, object]], fields: tuple[str, str]
) -> Iterator[Mapping[str, object]]:
    """The questions about one text.

    Args:
        fields: how the id and the text of a question are called.
    """
    id_field, question_field = fields
    for item in items:
        record = {"id": item.get(id_field), "title": title, "text": text, "question": item[question_field]}
        if "answers" in item:
            answers: Sequence[object] = [] if item.get("is_impossible") else item["answers"]  # type: ignore[assignment]
            record["answers"] = [_answer(answer, str(text)) for answer in answers]
        yield record


def _answer(answer: object, text: str) -> Mapping[str, object]:
    """An answer by the names of annotated records; a bare text is one without a place."""
    if not isinstance(answer, Mapping):
        return {"start": None, "text": answer}
    start, words = answer.get("answer_start"), answer["text"]
    if type(start) is int and start > 0 and not text.isascii() and not text.startswith(str(words), start):
        place = _characters(text, start)
        start = place if text.startswith(str(words), place) else start
    return {"start": start, "text": words}


def _characters(text: str, units: int) -> int:
    """How many characters the first units of UTF-16 of a text are: what CMRC 2018 counts behind a rare character."""
    return len(text.encode("utf-16-le", "surrogatepass")[: 2 * units].decode("utf-16-le", "ignore"))
