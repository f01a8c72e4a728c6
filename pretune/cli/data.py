"""Verbs from raw text to a token store: corpus, tokenizer, prepare."""

from __future__ import annotations

from pathlib import Path

from cyclopts import App, Group

from pretune.cli.session import DEFAULT, Common, Words
from pretune.errors import UsageError


def register(app: App) -> None:
    """Hang these verbs on the command line."""
    group = Group("From text to tokens", sort_key=1)
    corpus = App(name="corpus", help="Make a corpus.", group=group, sort_key=0)
    corpus.command(pydocs)
    tokenizer = App(name="tokenizer", help="Make a tokenizer.", group=group, sort_key=1)
    tokenizer.command(train)
    app.command(corpus)
    app.command(tokenizer)
    app.command(prepare, group=group, sort_key=2)


def pydocs(
    output: Path, /, *, exclude: tuple[str, ...] = (), minimum: int | None = None, session: Common = DEFAULT
) -> None:
    """Write the corpus that every Python carries, as JSONL.

    Docstrings and the language reference, read without importing the packages.

    Args:
        output: the .jsonl file to write; each line has `text`, `domain` (the package) and `source`.
        exclude: a package, module or dotted name to leave out with all below it, such as torch.nn; may be repeated.
        minimum: characters of the shortest docstring kept.
    """
    session.say(f"collecting the documentation of this Python's packages -> {output}")
    from pretune.text.pydocs import MINIMUM, write_pydocs

    account = write_pydocs(output, exclude=exclude, minimum=MINIMUM if minimum is None else minimum)
    session.say(f"{account.summary()}\nwritten: {output}")
    session.say(f"next: pretune tokenizer train {output} --output tokenizer")


def train(*words: Words, output: Path, session: Common = DEFAULT) -> None:
    """Train a tokenizer on text files, folders or globs.

    Args:
        words: PATH... [--field value]...: the text, then fields such as --kind bpe --vocab_size 30000.
        output: folder for the tokenizer.
    """
    paths, fields = split_words(words)
    raise NotImplementedError


def prepare(*words: Words, tokenizer: Path, output: Path, session: Common = DEFAULT) -> None:
    """Turn text into a token store.

    Killed and started again, it ends with the same bytes.

    Args:
        words: PATH... [--field value]...: the text, then fields such as --workers 4.
        tokenizer: folder or file of a tokenizer.
        output: folder for the store.
    """
    raise NotImplementedError


def split_words(words: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Paths, which come first, and `--field value` words, which follow.

    Raises:
        UsageError: no path.
    """
    first = next((n for n, word in enumerate(words) if word.startswith("--")), len(words))
    if not first:
        raise UsageError("name the text first: files, folders or globs (.txt .jsonl .csv .tsv .parquet, .gz, .zst)")
    return list(words[:first]), list(words[first:])
