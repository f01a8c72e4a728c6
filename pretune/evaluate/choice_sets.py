"""Reads sets on which language models are scored without training: four forms of records, known by their fields.

query, choices, gold                     choices: the right one is the likeliest after the query
context_options, continuation, gold      partial: the continuation is likeliest after the right context (Winograd)
sentence_good, sentence_bad              pairs: the good sentence is the likelier one (BLiMP)
text                                     cloze: the last word is what the model would write (LAMBADA)
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pretune.draw import Draw, Permutation
from pretune.errors import DataError, UsageError
from pretune.text.readers.files import find_sources, has_columns, skipped_note
from pretune.text.readers.labelled import field_names, read_records
from pretune.text.readers.records import Column, Origin, Record

ANSWER = "\nAnswer: "
DELIMITERS = {"piqa": ANSWER, "arc_easy": ANSWER, "arc_challenge": ANSWER}
"""What stands between query and choice in the prompts of lm-eval, by the names of sets; a space in all others."""
BETWEEN = "\n\n"  # of examples and questions, as in lm-eval
_log = logging.getLogger("pretune")


@dataclass(frozen=True)
class Item:
    """What is scored at once.

    Attributes:
        pairs: contexts and continuations, one of them right.
        choices: what lengths are counted of.
        gold: number of the right one.
        solved: context and right continuation, as an example for others.
        origin: where it comes from.
    """

    pairs: tuple[tuple[str, str], ...]
    choices: tuple[str, ...]
    gold: int
    solved: str
    origin: Origin


@dataclass(frozen=True)
class Form:
    """One form of records.

    Attributes:
        fields: that a record of it has.
        read: makes an item of a record and the delimiter.
        takes_shots: solved examples may stand before it.
    """

    fields: tuple[str, ...]
    read: Callable[[Record, str], Item]
    takes_shots: bool = True


def _choices(record: Record, delimiter: str) -> Item:
    query, choices = record.get("query"), _texts(record, "choices")
    if not isinstance(query, str):
        raise record.error("field 'query' holds no text", "write the question that the choices answer")
    gold = _gold(record, len(choices), "choices")
    context = query.rstrip() + delimiter if query.strip() else ""
    pairs = tuple((context, choice) for choice in choices)
    return Item(pairs, tuple(choices), gold, context + choices[gold], record.origin)


def _partial(record: Record, delimiter: str) -> Item:
    options, continuation = _texts(record, "context_options"), record.text("continuation")
    gold = _gold(record, len(options), "context_options")
    pairs = tuple((option.rstrip() + delimiter, continuation) for option in options)
    return Item(pairs, tuple(options), gold, "".join(pairs[gold]), record.origin)


def _sentences(record: Record, delimiter: str) -> Item:
    del delimiter
    sentences = (record.text("sentence_good"), record.text("sentence_bad"))
    return Item(tuple(("", sentence) for sentence in sentences), sentences, 0, sentences[0], record.origin)


def _cloze(record: Record, delimiter: str) -> Item:
    del delimiter
    text = record.text("text")
    before, _, last = text.rpartition(" ")
    if not before.strip() or not last:
        raise record.error(f"text {text[:40]!r} has no last word after others", "write a text of several words")
    return Item(((before, f" {last}"),), (last,), 0, text, record.origin)


FORMS: Mapping[str, Form] = {
    "choices": Form(("query", "choices", "gold"), _choices),
    "partial": Form(("context_options", "continuation", "gold"), _partial),
    "pairs": Form(("sentence_good", "sentence_bad"), _sentences, takes_shots=False),
    "cloze": Form(("text",), _cloze),
}
_COLUMNS = [
    Column(name, "", required=False) for name in dict.fromkeys(name for form in FORMS.values() for name in form.fields)
]


def _texts(record: Record, name: str) -> list[str]:
    """Two texts or more, none of them empty."""
    values = record.get(name)
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise record.error(f"field {name!r} holds no list of texts", "write a JSON array of texts")
    if len(values) < 2:
        raise record.error(f"field {name!r} has {len(values)} texts", "write two or more, one of which is right")
    for number, value in enumerate(values, 1):
        if not value.strip():
            raise record.error(f"field {name!r}: text {number} is empty", "fill it in or remove it")
    return values


def _gold(record: Record, count: int, name: str) -> int:
    gold = record.get("gold")
    if isinstance(gold, bool) or not isinstance(gold, int) or not 0 <= gold < count:
        raise record.error(
            f"field 'gold' is {gold!r}", f"write the number of the right one of {name!r}: 0 to {count - 1}"
        )
    return gold


@dataclass(frozen=True)
class ChoiceSet:
    """A set that was read.

    Attributes:
        name: of its file, without the suffix.
        form: one of `FORMS`.
        items: what is scored.
        shots: how many solved examples stand before each item.
    """

    name: str
    form: str
    items: Sequence[Item]
    shots: int = 0


def read_set(
    path: Path, delimiter: str | None = None, *, shots: int = 0, limit: int | None = None, seed: int = 0
) -> ChoiceSet:
    """Reads one file.

    Args:
        delimiter: between query and choice; by default that of lm-eval's prompts, else a space.
        shots: solved examples before each question, the same for all: they are drawn from the set and not scored.
        limit: of the items that are scored, the first so many.
        seed: of the draw.

    Raises:
        DataError: a record of no form, or with a field that cannot be used; nothing to score.
        UsageError: shots for sentences, or as many as the set has records.
    """
    between = DELIMITERS.get(path.stem, " ") if delimiter is None else delimiter
    names = field_names(path)
    if names and form_of(names) is None:
        raise _no_form(path, names)
    records = list(read_records(path, _COLUMNS))
    if not records:
        raise DataError(f"{path}: holds no records; name a file of JSON Lines with one on each line")
    name = form_of(records[0])
    if name is None:
        raise _no_form(path, records[0])
    form = FORMS[name]
    for record in records:
        if not record.keys() >= {*form.fields}:
            missing = ", ".join(field for field in form.fields if field not in record)
            raise record.error(
                f"field {missing!r} is missing, which the first record has", "fill it in or leave it out"
            )
    items = [form.read(record, between) for record in records]
    if shots and not form.takes_shots:
        raise UsageError(
            f"--shots {shots}: {path} compares sentences, which have no examples before them; leave it out"
        )
    if shots >= len(items):
        raise UsageError(f"--shots {shots}: {path} has {len(items)} records, and one has to be left; lower it")
    order = Permutation(len(items), Draw(seed).at("shots"))(np.arange(shots)).tolist() if shots else []
    before = "".join(items[n].solved + BETWEEN for n in order)
    left = [item for n, item in enumerate(items) if n not in {*order}][:limit]
    return ChoiceSet(path.stem, name, [_after(item, before) for item in left] if shots else left, shots)


def _after(item: Item, shots: str) -> Item:
    pairs = tuple((shots + context, continuation) for context, continuation in item.pairs)
    return Item(pairs, item.choices, item.gold, item.solved, item.origin)


def form_of(fields: Iterable[str]) -> str | None:
    """The form of records with some fields; None where it is none."""
    names = {*fields}
    return next((name for name, form in FORMS.items() if names >= {*form.fields}), None)


def _no_form(path: Path, fields: Iterable[str]) -> DataError:
    forms = "; ".join(", ".join(form.fields) for form in FORMS.values())
    return DataError(f"{path}:1: has the fields {', '.join(fields) or 'none'}; expected those of one form: {forms}")


def find_files(data: Sequence[Path]) -> list[Path]:
    """The files of sets: those that are named, and of folders those of a form; what is passed over is said.

    One that cannot be read is among them, so that `read_set` says why.

    Raises:
        MissingInputError: one that is not there.
        DataError: folders without any.
    """
    chosen: list[Path] = []
    passed: list[str] = []
    for path in data:
        for source in find_sources(path, ignored=passed):
            names = field_names(source.path)
            has_form = form_of(names) is not None if names else has_columns(source.format)
            if has_form or not path.is_dir():
                chosen.append(source.path)
            else:
                _log.info("%s: left out, its fields are those of no form", source.path)
    if note := skipped_note(passed):
        _log.info("%s", note)
    if not chosen:
        fields = "; ".join(", ".join(form.fields) for form in FORMS.values())
        raise DataError(f"{data[0]}: no file with records of a form is here; expected the fields {fields}")
    twice, count = Counter(file.stem for file in chosen).most_common(1)[0]
    if count > 1:
        both = ", ".join(str(file) for file in chosen if file.stem == twice)
        raise DataError(f"{both}: sets have the same name; rename one of them, or score them in two calls")
    return chosen
