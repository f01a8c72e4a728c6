"""Generates the mistakes of a first hour from the fields and flags that there are, by a seed, and follows remedies."""

from __future__ import annotations

import random
import re
import shlex
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from pretune.config import names_of
from pretune.config.field_names import options
from pretune.train.recipe import Recipe
from pretune.train.short_names import FOREIGN_NAMES, SHORT_NAMES

NAMES = names_of(Recipe)
FINETUNE = {"--task": "classification", "--model": "bert", "--train": "train.csv", "--output": "run"}
PRETRAIN = {"--objective": "mlm", "--stores": "store", "--size": "tiny", "--output": "run"}
OF_STORES = (
    "objective",
    "data.stores",
    "data.temperature",
    "data.pack",
    "data.length_warmup",
    "model.size",
    "model.family",
)
NEED_OTHERS = {
    "distil.unlabelled",
    "data.fold",
    "budget.min_steps",
    "data.columns.third",
    "model.overrides",
    "data.weights",
    "data.schedule",
    "optimizer.rates",
}
VALUES = {  # that a field of text accepts in these commands
    "automatic": "budget",
    "task": "similarity",
    "distil.student.keep": "0",
    "objective": "mlm",
    "tune": "frozen",
    "output": "other",
    "model.family": "bert",
    "model.init": "bert",
    "data.tokenizer": "tok",
    "data.stores": "store",
    "data.train": "train.csv",
    "data.validation": "train.csv",
    "data.columns.text": "text",
    "data.columns.label": "label",
    "data.columns.second": "other",
    "data.columns.delimiter": ";",
    "data.columns.columns": "text,label,other",
    "data.columns.max_document_bytes": "8000",
    "distil.layer_map": "[]",
    "optimizer.name": "adamw",
    "track.to": '["tensorboard"]',
    "truncate": "head",
    "pooling": "mean",
    "masking": "token",
    "methods": "swap",
    "tokenizer": "tok",
    "vocab_size": "80",
    "processes": "1",
}
OTHERS = {  # commands that end in a second, and what they write
    "tokenizer train": "tokenizer train corpus.txt --vocab-size 60 --output out --quiet",
    "prepare": "prepare corpus.txt --tokenizer tok --processes 1 --output out --quiet",
    "augment": "augment train.csv --methods swap --copies 1 --output out.csv --quiet",
    "predict": "predict clf text --truncate head --output out.jsonl --quiet",
    "evaluate": "evaluate clf train.csv --text text --label label --quiet",
    "embed": "embed clf text --pooling mean --output out.jsonl --quiet",
    "fill": "fill bert text[MASK] --top 2 --quiet",
    "score": "score bert text --masking token --quiet",
    "export": "export clf out --quiet",
}


@dataclass(frozen=True)
class Mistake:
    """A command that is wrong.

    Attributes:
        kind: of mistake.
        words: of the command line.
        wrong: the word that is wrong, or that lacks its value.
    """

    kind: str
    words: tuple[str, ...]
    wrong: str

    def __str__(self) -> str:
        return f"{self.kind}: pretune {shlex.join(self.words)}"


def misspell(word: str, draw: random.Random) -> str:
    """A word with one letter left out, doubled, exchanged with the next, or another."""
    place = draw.randrange(2, len(word) - 1) if len(word) > 3 else 1
    kind = draw.randrange(4)
    if kind == 0:
        return word[:place] + word[place + 1 :]
    if kind == 1:
        return word[:place] + word[place] + word[place:]
    if kind == 2 and word[place] != word[place - 1]:
        return word[: place - 1] + word[place] + word[place - 1] + word[place + 1 :]
    return word[:place] + draw.choice([c for c in string.ascii_lowercase if c != word[place]]) + word[place + 1 :]


def generate(seed: int) -> Iterator[Mistake]:
    """Yields mistakes of every kind."""
    draw = random.Random(seed)
    yield from _recipe_flags(draw)
    yield from _recipe_values(draw)
    yield from _recipe_variants(draw)
    yield from _paths(draw)
    yield from _words_of_other_verbs(draw)
    yield from _order()


def _training(dotted: str, *more: str, show: bool = False) -> tuple[str, ...]:
    """A training command that needs a field, which it has not yet, and more words."""
    base = PRETRAIN if dotted in OF_STORES else FINETUNE
    words = [word for flag, value in base.items() if NAMES.dotted(flag[2:]) != dotted for word in (flag, value)]
    return ("show" if show else "finetune" if base is FINETUNE else "pretrain", *words, *more)


def _recipe_flags(draw: random.Random) -> Iterator[Mistake]:
    """Names of fields that are misspelt, of other tools, or without a value."""
    leaves = sorted({*SHORT_NAMES, *(name.rpartition(".")[2] for name in NAMES.fields)})
    known = [name for name in leaves if len(name) > 3 and NAMES.dotted(name) not in {None, *NEED_OTHERS}]
    for name in draw.sample(known, 45):
        wrong, dotted = misspell(name, draw), str(NAMES.dotted(name))
        if NAMES.find(wrong) is None:
            words = _training(dotted, f"--{wrong}", value_of(dotted), show=draw.random() < 0.3)
            yield Mistake("misspelt flag", words, f"--{wrong}")
    for name in draw.sample(sorted(FOREIGN_NAMES), 55):
        if NAMES.find(name) is None and name != "labels" and NAMES.dotted(name) not in NEED_OTHERS:
            flag, dotted = f"--{name.replace('_', draw.choice('_-'))}", str(NAMES.dotted(name))
            yield Mistake("foreign flag", _training(dotted, flag, value_of(dotted)), flag)
    for name in sorted(set(SHORT_NAMES) - {"third"}):
        yield Mistake("flag without value", _training(SHORT_NAMES[name], f"--{name}", "--seed", "1"), f"--{name}")
    for name in draw.sample(
        [n for n in sorted(NAMES.fields) if n not in NEED_OTHERS and re.search(r"\.\w{4,}$", n)], 35
    ):
        section, _, leaf = name.rpartition(".")
        wrong = misspell(leaf, draw)
        if f"{section}.{wrong}" not in NAMES.fields:
            words = _training(name, f"--{section}.{wrong}", value_of(name), show=draw.random() < 0.3)
            yield Mistake("misspelt field", words, f"--{section}.{wrong}")


def _recipe_values(draw: random.Random) -> Iterator[Mistake]:
    """Values of another type, or out of range, and values that are given twice."""
    for name, annotation in NAMES.fields.items():
        wrong = _wrong_value(annotation, draw)
        if wrong is not None and name not in NEED_OTHERS:
            yield Mistake("wrong value", _training(name, f"--{name}", wrong), wrong)
    for name in ("seed", "optimizer.lr", "data.length", "data.batch"):
        yield Mistake("given twice", _training(name, f"--{name}", "8", f"--{name}", "9"), f"--{name}")


def _wrong_value(annotation: Any, draw: random.Random) -> str | None:
    for option in options(annotation):
        if option in (int, float):
            return draw.choice(["many", "-7", "3e"])
        if option is bool:
            return draw.choice(["maybe", "3"])
        if get_origin(option) is Literal:
            return misspell(str(get_args(option)[0]), draw)
    return None


def _recipe_variants(draw: random.Random) -> Iterator[Mistake]:
    """Misspelt names of tasks, objectives, tuning methods, optimizers, families and sizes."""
    for field, names in (
        ("task", ("classification",)),
        ("objective", ("mlm", "simcse", "sop")),
        ("tune", ("frozen", "full")),
        ("optimizer.name", ("adamw", "muon")),
        ("model.family", ("bert", "roberta", "albert")),
        ("model.size", ("tiny", "small", "medium", "large")),
    ):
        for name in names:
            wrong = misspell(name, draw)
            yield Mistake("misspelt variant", _training(field, f"--{field}", wrong), wrong)


def _paths(draw: random.Random) -> Iterator[Mistake]:
    """Misspelt files, folders and columns, in every verb that reads one."""
    commands = [shlex.join(_training(field)) for field in ("lr", "model.family")] + list(OTHERS.values())
    for command in commands:
        words = tuple(command.split())
        for path in ("train.csv", "corpus.txt", "bert", "clf", "tok", "store"):
            for place in [n for n, word in enumerate(words) if word == path]:
                wrong = misspell(path, draw)
                yield Mistake("misspelt path", (*words[:place], wrong, *words[place + 1 :]), wrong)
    for verb, flag, column in (("evaluate", "--text", "text"), ("evaluate", "--label", "label")):
        words = tuple(OTHERS[verb].split())
        place = words.index(flag) + 1
        wrong = misspell(column, draw)
        yield Mistake("misspelt column", (*words[:place], wrong, *words[place + 1 :]), wrong)
    for flag, column in (("--text", "text"), ("--label", "label")):
        wrong = misspell(column, draw)
        yield Mistake("misspelt column", _training("data.columns", flag, wrong), wrong)


def _words_of_other_verbs(draw: random.Random) -> Iterator[Mistake]:
    """Misspelt verbs and flags, wrong values, and what is missing, of the verbs that do not train."""
    for command in OTHERS.values():
        words = tuple(command.split())
        for place, word in enumerate(words):
            before, after = words[:place], words[place + 1 :]
            if place == 0 or words[:2] == ("tokenizer", word):
                wrong = misspell(word, draw)
                yield Mistake("misspelt verb", (*before, wrong, *after), wrong)
            elif word.startswith("--") and word != "--quiet":
                wrong = f"--{misspell(word[2:], draw)}"
                yield Mistake("misspelt flag", (*before, wrong, *after), wrong)
                yield Mistake("flag without value", (*before, word, *after[1:]), word)
            elif words[place - 1] in ("--vocab-size", "--processes", "--copies", "--top"):
                wrong = draw.choice(["many", "2.5"])
                yield Mistake("wrong value", (*before, wrong, *after), wrong)
            elif words[place - 1] in ("--truncate", "--masking", "--pooling", "--methods"):
                wrong = misspell(word, draw)
                yield Mistake("wrong value", (*before, wrong, *after), wrong)


def _order() -> Iterator[Mistake]:
    """Words in the wrong order, or too few."""
    finetune = _training("seed", "--seed", "1")
    yield Mistake("order", (finetune[0], "train.csv", *finetune[1:]), "train.csv")
    yield Mistake("order", ("pretrain", "bert", "--objective", "mlm", "--stores", "store"), "bert")
    yield Mistake("order", (*finetune, "recipe.toml"), "recipe.toml")
    yield Mistake("order", ("--seed", "1", "finetune"), "--seed")
    yield Mistake("order", ("prepare", "--tokenizer", "tok", "--output", "out"), "prepare")
    yield Mistake("order", ("predict",), "predict")
    yield Mistake("order", ("export", "clf"), "clf")
    yield Mistake("order", ("prepare", "corpus.txt", "--output", "out"), "corpus.txt")


REMEDIES = {  # of words in the wrong order
    "as the value of a flag: --train train.csv": lambda words: (words[0], *words[2:]),
    "as the value of a flag: --model bert": lambda words: (words[0], "--model", *words[1:]),
    "a recipe stands first, before the flags": lambda words: (words[0], words[-1], *words[1:-1]),
    "give a verb before its flags": lambda words: _training("seed", *words[:2]),
    "name the text first": lambda words: (words[0], "corpus.txt", *words[1:]),
    "name the folder of a model first": lambda words: (words[0], "clf", "text", *words[1:]),
    "name what is to be written": lambda words: (*words, "out"),
    "make one first, as with: pretune tokenizer train": lambda words: (*words, "--tokenizer", "tok"),
}


def value_of(name: str) -> str:
    """A value that a field accepts."""
    dotted = NAMES.dotted(name) or name
    if (text := VALUES.get(dotted, VALUES.get(name))) is not None:
        return text
    types = options(NAMES.fields.get(dotted, int))
    if get_origin(types[0]) is Literal:
        return str(get_args(types[0])[-1])
    return {int: "8", float: "0.5", bool: "true"}.get(types[0], "label")


def follow(mistake: Mistake, message: str) -> tuple[str, ...] | None:
    """The command that a message says to run instead; None where it names none."""
    words = list(mistake.words)
    for phrase, mended in REMEDIES.items():
        if mistake.kind == "order" and phrase in message:
            return mended(mistake.words)
    text = " ".join(message.split())
    place = next((n for n, word in enumerate(words) if word == mistake.wrong), None)
    if "leave the others out" in text:
        last = len(words) - 1 - words[::-1].index(mistake.wrong)
        return (*words[:last], *words[last + 2 :])
    if (flag := re.search(r"did you mean (--[\w.-]+)", text)) is not None and place is not None:
        return (*words[:place], flag[1], *words[place + 1 :])
    near = re.search(r"did you mean '([^']+)'", text) or re.search(r"[;,] known: ([\w+.-]+)", text)
    if near is None:
        near = re.search(r"known columns?: '?([\w]+)", text)
    if near is not None and place is not None:
        prefix = mistake.wrong.rpartition(".")[0] + "." if mistake.wrong.startswith("--") else ""
        return (*words[:place], prefix + near[1], *words[place + 1 :])
    if (flag := re.search(r"write (--[\w.-]+)=VALUE", text)) is not None and place is not None:
        return (*words[:place], f"{flag[1]}={value_of(flag[1][2:].replace('-', '_'))}", *words[place + 1 :])
    if (value := re.search(r"expected (.+)$", message.splitlines()[-1])) is not None:
        wrong = next((n for n, word in enumerate(words) if word == mistake.wrong), None)
        if wrong is None:
            return None
        return (*words[:wrong], _of_description(value[1], words[wrong - 1]), *words[wrong + 1 :])
    return None


def _of_description(text: str, flag: str) -> str:
    """A value as the message describes it, for a flag."""
    first = text.partition(";")[0]
    if (least := re.match(r"([\d.,]+) or more", first)) is not None:
        return least[1].replace(",", "")
    if (choice := re.match(r"'?([\w+-]+)'?(?:,| or |$)", first)) is not None and not first.startswith("a "):
        return choice[1]
    if (bound := re.match(r"a number (above|below) ([\d.,e+-]+)", first)) is not None:
        return str(float(bound[2].replace(",", "")) + (1e-3 if bound[1] == "above" else -0.5))
    return value_of(flag[2:].replace("-", "_"))


def count(mistakes: Sequence[Mistake]) -> dict[str, int]:
    """How many there are of each kind."""
    return {kind: sum(m.kind == kind for m in mistakes) for kind in sorted({m.kind for m in mistakes})}
