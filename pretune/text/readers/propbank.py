"""Reads semantic roles from CoNLL-U files with columns for predicates: of PropBank, or of Universal Propositions.

Behind the columns of CoNLL-U (ten, or the first eight of them) stand the predicate of a word's sense, with a column `Y`
before it in some files, and then a column for the arguments of each predicate in turn, where a word's role stands:

    2  Bush       ...  1  flat   _  _  _            _     _
    5  nominated  ...  0  root   _  _  nominate.01  V     _
    7  individuals...  5  obj    _  _  _            ARG1  ARG0
    9  replace    ...  5  advcl  _  _  replace.01   ARG2  V

Each sentence gives a record of an `id`, the `text`, its `spans` (predicates with the label `predicate`, arguments with
the label `argument`) and `links`, each from a predicate to an argument with the role as its label. Roles stand on head
words: an argument is what hangs on its head, as far as it lies around it without a gap, and without the predicate's own
branch where the predicate hangs on its argument.

Source: Akbik et al. 2015, "Generating high quality proposition banks for multilingual semantic role labeling"
(P15-1039).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pretune.text.readers.conllu import sentences
from pretune.text.readers.files import Source, SourceConfig
from pretune.text.readers.records import Column, RecordError, SourceRow
from pretune.text.readers.words import join_words

SUFFIXES = ()
PREDICATE = "predicate"
ARGUMENT = "argument"
_NONE = ("", "_")
_SHORT = 10  # columns of a sentence without predicates in files that have eight columns before them
_HEAD = 6  # column of the head's number
_OWN_ROLES = ("V", "C-V")  # marks of the predicate itself in its column


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence with its predicates.

    Attributes:
        line: of the file, where it begins.
        name: its number or id.
        words: in order.
        heads: the number of each word's head from 0; -1 for the root.
        predicates: numbers of words.
        roles: for each predicate, the role of each word that has one.
        text: as the file has it; empty where it has none.
    """

    line: int
    name: str
    words: tuple[str, ...]
    heads: tuple[int, ...]
    predicates: tuple[int, ...]
    roles: tuple[Mapping[int, str], ...]
    text: str = ""


def read(source: Source, columns: Sequence[Column], config: SourceConfig) -> Iterator[SourceRow | RecordError]:
    """A record for each sentence, arguments as all that hangs on their heads."""
    for item in read_sentences(source, config):
        yield item if isinstance(item, RecordError) else (item.line, record_of(item))


def read_sentences(source: Source, config: SourceConfig) -> Iterator[Sentence | RecordError]:
    """The sentences of a file."""
    count = 0
    for item in sentences(source, config):
        if isinstance(item, RecordError):
            yield item
            continue
        (rows, comments), count = item, count + 1
        yield _sentence(str(source.path), rows[0][0], [row for _, row in rows], comments, count)


def _sentence(
    file: str, line: int, rows: Sequence[Sequence[str]], comments: Mapping[str, str], count: int
) -> Sentence | RecordError:
    """A sentence from its lines; multiword tokens and empty nodes are no words."""
    words = [row for row in rows if row[0].isdecimal()]
    if not words or any(len(row) < 8 or not row[_HEAD].isdecimal() for row in words):
        remedy = "give each word the columns of CoNLL-U, its predicate and the roles"
        return RecordError(file, line, "the sentence has not the columns of CoNLL-U", remedy)
    is_short = any(row[8:9] == ["Y"] for row in words) or len(words[0]) == _SHORT
    senses = 9 if is_short else 10
    predicates = [n for n, row in enumerate(words) if len(row) > senses and row[senses] not in _NONE]
    roles: list[dict[int, str]] = []
    for number in range(len(predicates)):
        column = senses + 1 + number
        if any(len(row) <= column for row in words):
            reason = f"{len(predicates)} predicates, and no column for the arguments of number {number + 1}"
            return RecordError(file, line, reason, "give each predicate a column")
        roles.append({n: row[column] for n, row in enumerate(words) if row[column] not in (*_NONE, *_OWN_ROLES)})
    heads = tuple(int(row[_HEAD]) - 1 for row in words)
    if any(head >= len(words) for head in heads):
        return RecordError(file, line, "a word hangs on one that is not there", "correct the column of the heads")
    name = comments.get("sent_id", str(count))
    text = "" if is_short else comments.get("text", "")
    return Sentence(line, name, tuple(row[1] for row in words), heads, tuple(predicates), tuple(roles), text)


def record_of(sentence: Sentence, whole_arguments: bool = True) -> Mapping[str, object]:
    """The record of a sentence.

    Args:
        whole_arguments: an argument is what hangs on its head; else the head alone.
    """
    text, places = _places(sentence)
    spans: dict[tuple[int, int, str], int] = {}
    links: dict[tuple[int, int, str], None] = {}
    for predicate, roles in zip(sentence.predicates, sentence.roles, strict=True):
        head = spans.setdefault((*places[predicate], PREDICATE), len(spans))
        for word, role in roles.items():
            first, last = argument_of(sentence.heads, word, predicate) if whole_arguments else (word, word)
            tail = spans.setdefault((places[first][0], places[last][1], ARGUMENT), len(spans))
            links[head, tail, role] = None
    return {
        "id": sentence.name,
        "text": text,
        "spans": [{"start": start, "end": end, "label": label} for start, end, label in spans],
        "links": [{"head": head, "tail": tail, "label": label} for head, tail, label in links],
    }


def argument_of(heads: Sequence[int], word: int, predicate: int) -> tuple[int, int]:
    """First and last word of an argument: what hangs on a word and lies around it without a gap."""
    path: set[int] = set()
    node = predicate
    while node >= 0 and node not in path and node != word:
        path.add(node)
        node = heads[node]
    left_out = path if node == word else {predicate} - {word}

    def belongs(other: int) -> bool:
        steps = 0
        while other >= 0 and other != word and other not in left_out and steps <= len(heads):
            other, steps = heads[other], steps + 1
        return other == word

    first = last = word
    while first > 0 and belongs(first - 1):
        first -= 1
    while last + 1 < len(heads) and belongs(last + 1):
        last += 1
    return first, last


def _places(sentence: Sentence) -> tuple[str, Sequence[tuple[int, int]]]:
    """The text, and where each word lies in it: the file's own text where its words are all there in turn."""
    places: list[tuple[int, int]] = []
    end = 0
    for word in sentence.words:
        start = sentence.text.find(word, end)
        if start < 0 or sentence.text[end:start].strip():
            return join_words(sentence.words)
        end = start + len(word)
        places.append((start, end))
    return sentence.text, places
