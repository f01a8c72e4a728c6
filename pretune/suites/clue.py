"""CLUE and FewCLUE, sets of Chinese language understanding, in the files that their authors publish.

Scores are theirs: accuracy, exact match of CMRC 2018 (its F1 beside it), F1 of whole entities of CLUENER; the total is
their plain mean. Records without a gold label (`-` of OCNLI and CMNLI) are left out, as they do.

Source: Xu et al. 2020, CLUE (arXiv 2004.05986); Xu et al. 2021, FewCLUE (arXiv 2107.07498); their code at
https://github.com/CLUEbenchmark.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from pretune.errors import DataError
from pretune.suites.records import changed, json_document, json_lines, lines_of, required
from pretune.suites.suite import SuiteSet
from pretune.text.readers.records import Origin, Record

_BLANK = "___"
_IDIOM = re.compile(r"#idiom\d*#")
_CONTEXT = 64  # characters on either side of an idiom that are read


def sentences(path: Path) -> Iterator[Record]:
    """One text and its label: TNEWS, IFLYTEK, CSLDCP, EPRSTMT."""
    for record in json_lines(path):
        text = required(record, "content" if "content" in record else "sentence")
        yield changed(record, text=text, label=required(record, "label"))


def sentence_pairs(path: Path) -> Iterator[Record]:
    """Two texts and their label: OCNLI, CMNLI, AFQMC, BUSTM; lines of JSON, or of text with tabs."""
    for record in _tab_lines(path) if path.suffix == ".txt" else json_lines(path):
        first, second = required(record, "sentence1"), required(record, "sentence2")
        yield changed(record, text=first, second=second, label=required(record, "label"))


def abstracts(path: Path) -> Iterator[Record]:
    """An abstract, keywords, and whether all of them are its own: CSL."""
    for record in json_lines(path):
        keywords = record.get("keyword")
        if not isinstance(keywords, list) or not keywords:
            raise record.error("field 'keyword' holds no list of words", "get the file again from its source")
        yield changed(
            record, text=required(record, "abst"), second="、".join(map(str, keywords)), label=required(record, "label")
        )


def references(path: Path) -> Iterator[Record]:
    """A text in which a noun stands between `_` and a pronoun in brackets, and whether they mean the same: CLUEWSC."""
    for record in json_lines(path):
        target = record.get("target")
        if not isinstance(target, Mapping):
            raise record.error("field 'target' is missing", "get the file again from its source")
        text, spans = required(record, "text"), []
        for number, marks in ((1, "__"), (2, "[]")):
            word = str(target.get(f"span{number}_text", ""))
            start = _place(record, text, word, target.get(f"span{number}_index"))
            spans.append((start, start + len(word), marks))
        for start, end, marks in sorted(spans, reverse=True):
            text = f"{text[:start]}{marks[0]}{text[start:end]}{marks[1]}{text[end:]}"
        yield changed(record, text=text, label=required(record, "label"))


def idioms(path: Path) -> Iterator[Record]:
    """The idiom that stands at a blank, of several: ChID, in both forms (CLUE's has a file of answers)."""
    answers = _answers(path)
    for record in json_lines(path):
        choices, content = record.get("candidates"), record.get("content")
        if not isinstance(choices, list) or not isinstance(content, str | list):
            raise record.error("fields 'candidates' and 'content' are missing", "get the file again from its source")
        for text in [content] if isinstance(content, str) else map(str, content):
            for blank in _IDIOM.finditer(text):
                answer = record.get("answer") if blank[0] == "#idiom#" else answers.get(blank[0])
                if not isinstance(answer, int):
                    raise record.error(f"no answer for {blank[0]}", f"put the file of answers beside {path.name}")
                before, after = text[: blank.start()][-_CONTEXT:], text[blank.end() :][:_CONTEXT]
                shown = _IDIOM.sub(_BLANK, before) + _BLANK + _IDIOM.sub(_BLANK, after)
                yield changed(record, text=shown, choices=list(map(str, choices)), label=answer)


def questions(path: Path) -> Iterator[Record]:
    """The answer to a question about a dialogue or a text, of several: C3."""
    for number, (passages, asked, *_) in enumerate(json_document(path), 1):
        for question in asked:
            choices = list(map(str, question["choice"]))
            record = Record({}, Origin(str(path), number))
            if question.get("answer") not in choices:
                raise record.error(f"answer {question.get('answer')!r} is no choice", "get the file from its source")
            text = f"{question['question']} {' '.join(map(str, passages))}"
            yield changed(record, text=text, choices=choices, label=choices.index(str(question["answer"])))


_PAIR = {"second": "second"}
SETS = (
    SuiteSet("afqmc", "classification", "accuracy", sentence_pairs, _PAIR),
    SuiteSet("tnews", "classification", "accuracy", sentences),
    SuiteSet("iflytek", "classification", "accuracy", sentences, length=256),
    SuiteSet("cmnli", "classification", "accuracy", sentence_pairs, _PAIR, no_label="-"),
    SuiteSet("ocnli", "classification", "accuracy", sentence_pairs, _PAIR, no_label="-"),
    SuiteSet("cluewsc", "classification", "accuracy", references, folders=("wsc",)),
    SuiteSet("csl", "classification", "accuracy", abstracts, _PAIR, length=384),
    SuiteSet("eprstmt", "classification", "accuracy", sentences),
    SuiteSet("csldcp", "classification", "accuracy", sentences, length=256),
    SuiteSet("bustm", "classification", "accuracy", sentence_pairs, _PAIR),
    SuiteSet("chid", "choice", "accuracy", idioms),
    SuiteSet("c3", "choice", "accuracy", questions, merges=True, length=512),
    # its trial part has two questions without a text, which are left out; its dev part has no bad record
    SuiteSet("cmrc", "reading", "exact", columns={"format": "squad", "on_bad": "skip"}, length=512),
    SuiteSet("cluener", "tagging", "f1", columns={"format": "cluener"}),
)


def _tab_lines(path: Path) -> Iterator[Record]:
    """Two texts and a label on each line, with tabs between them."""
    for number, line in enumerate(lines_of(path), 1):
        fields = line.split("\t")
        if len(fields) != 3:
            raise DataError(f"{path}:{number}: {len(fields)} fields, expected two texts and a label with tabs between")
        names = ("sentence1", "sentence2", "label")
        yield Record(dict(zip(names, fields, strict=True)), Origin(str(path), number))


def _place(record: Record, text: str, word: str, stated: object) -> int:
    """Where a word begins: at the stated place, else where it stands nearest to that.

    Raises:
        DataError: it is not in the text.
    """
    starts = [match.start() for match in re.finditer(re.escape(word), text)] if word else []
    if not starts or not isinstance(stated, int):
        raise record.error(f"span {word!r} is not in the text", "get the file again from its source")
    return min(starts, key=lambda start: abs(start - stated))


def _answers(path: Path) -> dict[str, object]:
    """The answers that stand in a file of their own, beside the one of questions; none where there is no such file."""
    beside = path.with_name(path.name.replace(path.stem, f"{path.stem}_answer"))
    if not beside.is_file():
        return {}
    document = json_document(beside)
    return document if isinstance(document, dict) else {}
