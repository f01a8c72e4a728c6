"""The schemes in which tags of words write spans, both ways: IOB1, IOB2, IOBES, BMES, IO; and plain tags.

    words    Alex  is  going  to  Los     Angeles
    IOB1     I-PER O   O      O   I-LOC   I-LOC      B- only where a span follows another one of its label
    IOB2     B-PER O   O      O   B-LOC   I-LOC
    IOBES    S-PER O   O      O   B-LOC   E-LOC      BILOU is the same with U- for S- and L- for E-
    BMES     S-PER O   O      O   B-LOC   E-LOC      M- instead of I- inside; bare B, M, E, S are those of words
    IO       I-PER O   O      O   I-LOC   I-LOC      two spans of a label that meet become one
    plain    NNP   VBZ VBG    TO  NNP     NNP        each word is a span of its own

Source: Ramshaw and Marcus 1995 (arXiv cmp-lg/9505040) for IOB; Ratinov and Roth 2009 for what lies inside and at ends.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

Scheme = Literal["IOB1", "IOB2", "IOBES", "BMES", "IO", "plain"]
OUTSIDE = "O"
WORD = "word"
"""The label of spans whose tags are bare, as those of Chinese words."""
_PREFIXED = re.compile(r"([BIOESMLU])(?:-(.+))?", re.DOTALL)
_BILOU = {"L": "E", "U": "S"}
_MOST = 0.5  # of the tags that are not O, as of spans: the others are mistakes, and not names of plain tags
_PARTS: dict[str, tuple[str, str, str, str]] = {  # of a span's first, inner, last and only word
    "IOB2": ("B", "I", "I", "B"),
    "IOBES": ("B", "I", "E", "S"),
    "BMES": ("B", "M", "E", "S"),
    "IO": ("I", "I", "I", "I"),
}


class Chunk(NamedTuple):
    """A run of words that has a label.

    Attributes:
        first: its first word.
        stop: the word after its last one.
        label: what it is.
    """

    first: int
    stop: int
    label: str


def split_tag(tag: str) -> tuple[str, str]:
    """The part of a span and the label that a tag names; of BILOU as IOBES calls it, and `word` for a bare one."""
    part, _, label = tag.partition("-")
    part = _BILOU.get(part, part)
    return part, label or ("" if part == OUTSIDE else WORD)


def join_tag(part: str, label: str) -> str:
    """The tag of a part of a span; bare where its label is `word`."""
    return part if label == WORD or part == OUTSIDE else f"{part}-{label}"


def detect_scheme(tags: Iterable[Sequence[str]]) -> Scheme:
    """The scheme in which the tags of some texts are written.

    B- and I- are IOB1 where a span begins with I- and none does with B- but behind one of its label, else IOB2. Where
    some tags have no such beginning, and most have one and a label, those some are mistakes, which `find_break` finds.
    """
    texts = list(tags)
    counts = Counter(tag for text in texts for tag in text if tag != OUTSIDE)
    of_spans = {tag for tag in counts if _PREFIXED.fullmatch(tag)}
    labelled = sum(counts[tag] for tag in of_spans if "-" in tag)
    if not counts or (len(of_spans) < len(counts) and labelled <= _MOST * counts.total()):
        return "plain"
    raw = {tag.partition("-")[0] for tag in of_spans} - {OUTSIDE}
    if "M" in raw or (raw <= {"B", "E", "S"} and raw & {"E", "S"}):
        return "BMES"
    if raw & {"E", "S", "L", "U"}:
        return "IOBES"
    if raw == {"I"}:
        return "IO"
    starts: Counter[tuple[str, str]] = Counter()
    for text in texts:
        before = (OUTSIDE, "")
        for tag in map(split_tag, text):
            if tag[0] != OUTSIDE and (tag[0] == "B" or before[1] != tag[1]):
                starts["apart" if before[1] != tag[1] else "behind", tag[0]] += 1
            before = tag
    return "IOB1" if starts["apart", "I"] and not starts["apart", "B"] else "IOB2"


def find_break(tags: Sequence[str], scheme: Scheme) -> int | None:
    """The first tag that a scheme does not have, or not behind the one before it, or a last one that ends no span.

    Returns:
        Its number; None where all are allowed.
    """
    parts = [split_tag(tag) for tag in tags]
    for n, (part, label) in enumerate(parts):
        if scheme != "plain" and not _is_of(scheme, tags[n], part):
            return n
        before = parts[n - 1] if n else (OUTSIDE, "")
        after = parts[n + 1] if n + 1 < len(parts) else (OUTSIDE, "")
        if not allows(scheme, before, (part, label)):
            return n
        if scheme in ("IOBES", "BMES") and after[0] in (OUTSIDE, "B", "S") and not allows(scheme, (part, label), after):
            return n
    return None


def _is_of(scheme: Scheme, tag: str, part: str) -> bool:
    """Whether a scheme has a tag: O, or a part of a span, with a label behind its hyphen."""
    if tag == OUTSIDE:
        return True
    return _PREFIXED.fullmatch(tag) is not None and part in _PARTS["IOB2" if scheme == "IOB1" else scheme]


def allows(scheme: Scheme, before: tuple[str, str], tag: tuple[str, str]) -> bool:
    """Whether a tag may follow another; at the ends of a text, O stands for what is not there."""
    (left, left_label), (right, label) = before, tag
    if scheme in ("plain", "IO"):
        return True
    if scheme == "IOB1":
        return right != "B" or left_label == label
    inner = "M" if scheme == "BMES" else "I"
    is_open = left in ("B", inner) and (scheme != "IOB2")
    if right in (inner, "E"):
        return left in ("B", inner) and left_label == label
    return not is_open


def read_chunks(tags: Sequence[str], scheme: Scheme) -> list[Chunk]:
    """The spans that tags write. A tag that its scheme does not allow behind the one before it begins a span."""
    if scheme == "plain":
        return [Chunk(n, n + 1, tag) for n, tag in enumerate(tags) if tag != OUTSIDE]
    chunks: list[Chunk] = []
    first, before = 0, (OUTSIDE, "")
    for n, tag in enumerate([*map(split_tag, tags), (OUTSIDE, "")]):
        if before[0] != OUTSIDE and _begins(before, tag):
            chunks.append(Chunk(first, n, before[1]))
        if tag[0] != OUTSIDE and (before[0] == OUTSIDE or _begins(before, tag)):
            first = n
        before = tag
    return chunks


def strict_chunks(tags: Sequence[str], scheme: Scheme) -> list[Chunk]:
    """The spans that tags write as their scheme wants it; what it does not allow is no span, as seqeval's strict mode.

    Source: seqeval 1.2.2, `seqeval.scheme`; of IOB1 with its exceptions, such as a B- behind another label.
    """
    if scheme in ("plain", "IO"):
        return read_chunks(tags, scheme)
    parts = [*map(split_tag, tags), (OUTSIDE, "")]
    chunks: list[Chunk] = []
    n = 0
    while n < len(tags):
        if not _starts(scheme, parts[n - 1] if n else (OUTSIDE, ""), parts[n]):
            n += 1
            continue
        stop = n + 1
        while _is_inside(parts[stop - 1], parts[stop]):
            stop += 1
        if _ends(scheme, parts[stop - 1], parts[stop]):
            chunks.append(Chunk(n, stop, parts[n][1]))
        n = stop
    return chunks


def _starts(scheme: Scheme, before: tuple[str, str], tag: tuple[str, str]) -> bool:
    if scheme == "IOB1":
        is_same = before[1] == tag[1]
        return (tag[0] == "I" and (before[0] != "I" or not is_same)) or (
            tag[0] == "B" and before[0] != OUTSIDE and is_same
        )
    return tag[0] == "B" or (tag[0] == "S" and scheme != "IOB2")


def _is_inside(before: tuple[str, str], tag: tuple[str, str]) -> bool:
    return tag[0] in ("I", "M", "E") and before[0] in ("B", "I", "M") and before[1] == tag[1]


def _ends(scheme: Scheme, last: tuple[str, str], after: tuple[str, str]) -> bool:
    if scheme == "IOB1":
        return last[0] == "I" or after[0] != "B" or last[1] == after[1]
    return scheme == "IOB2" or last[0] in ("E", "S")


def _begins(before: tuple[str, str], tag: tuple[str, str]) -> bool:
    """Whether a span that was open ends before a tag."""
    return tag[0] in (OUTSIDE, "B", "S") or before[0] in ("E", "S") or before[1] != tag[1]


def write_tags(chunks: Iterable[Chunk], count: int, scheme: Scheme) -> list[str]:
    """The tags of `count` words, some of which make spans that do not overlap; of plain ones, O where there is none."""
    tags = [OUTSIDE] * count
    ends: dict[int, str] = {}
    for first, stop, label in sorted(chunks):
        if scheme == "plain":
            tags[first:stop] = [label] * (stop - first)
        elif scheme == "IOB1":
            begin = "B" if ends.get(first) == label else "I"
            tags[first:stop] = [join_tag(begin, label), *[join_tag("I", label)] * (stop - first - 1)]
        else:
            begin, inner, end, single = (join_tag(part, label) for part in _PARTS[scheme])
            parts = [begin, *[inner] * (stop - first - 2), end]
            tags[first:stop] = [single] if stop - first == 1 else parts
        ends[stop] = label
    return tags


def tags_of(labels: Iterable[str], scheme: Scheme) -> list[str]:
    """All tags of a scheme for some labels of spans, O first; of plain ones, the labels."""
    names = list(labels)
    if scheme == "plain":
        return names
    parts = ("I", "B") if scheme == "IOB1" else tuple(dict.fromkeys(_PARTS[scheme]))
    outside = [] if names == [WORD] and scheme == "BMES" else [OUTSIDE]
    return [*outside, *(join_tag(part, label) for label in names for part in parts)]


def labels_of(tags: Iterable[str], scheme: Scheme) -> list[str]:
    """The labels of the spans that tags can write, in their order."""
    if scheme == "plain":
        return [tag for tag in tags if tag != OUTSIDE]
    return list(dict.fromkeys(split_tag(tag)[1] for tag in tags if tag != OUTSIDE))
