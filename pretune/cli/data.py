"""Verbs from raw text to a token store: corpus, tokenizer, prepare."""

from __future__ import annotations

import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self, TypeVar

from cyclopts import App, Group, Parameter

from pretune.cli.outputs import check_output
from pretune.cli.session import DEFAULT, Args, Common, Session
from pretune.disk import storage_errors
from pretune.errors import CannotCreateError, UsageError
from pretune.language import translate
from pretune.new_folder import NewFolder, contents, settle
from pretune.wording import counted

if TYPE_CHECKING:
    from pretune.config import Config
    from pretune.models.model import LanguageModel
    from pretune.text.readers.corpus import CorpusConfig, DataStats
    from pretune.text.store.prepare import Progress
    from pretune.text.store.store import TokenStore
    from pretune.text.tokenizer.extend import Extended
    from pretune.text.tokenizer.spool import TrainProgress
    from pretune.text.tokenizer.unknown import UnknownTokens

C = TypeVar("C", bound="Config")
GROUP = Group("From text to tokens", sort_key=1)
VERBS = Group("Commands")
Names = Annotated[tuple[str, ...], Parameter(consume_multiple=True, show_default=False)]


def register(app: App) -> None:
    """Adds these verbs to the command line."""
    corpus = App(name="corpus", help="Build a corpus.", group=GROUP, group_commands=VERBS, sort_key=0)
    corpus.command(pydocs)
    tokenizer = App(
        name="tokenizer", help="Train or extend a tokenizer.", group=GROUP, group_commands=VERBS, sort_key=1
    )
    tokenizer.command(train, usage="pretune tokenizer train TEXT... --output FOLDER [--flag VALUE]...")
    extending = "pretune tokenizer extend TEXT... --model FOLDER --output FOLDER [--flag VALUE]..."
    tokenizer.command(extend, usage=extending)
    app.command(corpus)
    app.command(tokenizer)
    preparing = "pretune prepare TEXT... --tokenizer FOLDER --output FOLDER [--flag VALUE]..."
    app.command(prepare, group=GROUP, sort_key=2, usage=preparing)


def pydocs(
    output: Path,
    *,
    packages: Names = (),
    exclude: Names = (),
    minimum: int | None = None,
    session: Common = DEFAULT,
) -> None:
    """Write the documentation of installed Python packages as a JSONL corpus.

    Docstrings and the language reference are read without importing the packages.

    Args:
        output: .jsonl file to write; each line has `text`, `domain` (the package) and `source`.
        packages: names of installed packages, and "python"; by default all that pretune knows.
        exclude: packages, modules or dotted names to leave out with everything below them, such as torch.nn.
        minimum: minimal number of characters of a docstring.
    """
    check_output(output)
    session.say(f"collecting the documentation of this Python's packages -> {output}")
    from pretune.demo.pydocs import MINIMUM, PACKAGES, write_pydocs

    stats = write_pydocs(output, packages or PACKAGES, exclude, MINIMUM if minimum is None else minimum)
    session.say(f"{stats.summary()}\nwritten: {output}")
    session.say(f"next: pretune tokenizer train {shlex.quote(str(output))} --output tokenizer")


def train(*args: Args, output: Path, config: Path | None = None, session: Common = DEFAULT) -> None:
    """Train a tokenizer on text files, folders or globs.

    Args:
        args: PATH... [--field value]...: text files, then fields such as --kind bpe --vocab_size 30000.
        output: folder for the tokenizer.
        config: TOML file of fields; fields of the command line override it.
    """
    session.start()
    refuse_existing(output)
    session.say(f"training a tokenizer on {', '.join(split_args(args)[0])} -> {output}")
    from pretune.text.readers.corpus import DataStats, read_corpus
    from pretune.text.tokenizer.train import TokenizerConfig, train_tokenizer

    paths, corpus, settings = _settings(args, config, TokenizerConfig, "tokenizer")
    session.say(f"kind: {settings.kind}; at most {settings.vocab_size:,} tokens")
    stats = DataStats()
    begin = time.perf_counter()
    with Meter(session) as meter, NewFolder(output) as folder:
        texts = (document.text for document in read_corpus(paths, corpus, stats))
        tokenizer = train_tokenizer(texts, settings, meter.show_training)
        with storage_errors(output, "save the tokenizer"):
            tokenizer.write(folder.path)
            folder.publish(last="tokenizer.json")
    for note in tokenizer.notes:
        session.say(note)
    session.say(f"{stats.summary()}; {time.perf_counter() - begin:.0f} s")
    session.say(_vocabulary_note(tokenizer.vocabulary.size, settings.vocab_size))
    session.say(f"written: {output}")
    _say_prepare(session, paths, corpus, output)


def _say_prepare(session: Session, paths: Sequence[str], corpus: CorpusConfig, tokenizer: Path) -> None:
    """Says how the same text is tokenized."""
    from pretune.report.next_commands import field_flags

    text = shlex.join([*paths, "--tokenizer", str(tokenizer), *field_flags(corpus, "corpus.")])
    session.say(f"next: pretune prepare {text} --output store")


def _vocabulary_note(size: int, wanted: int) -> str:
    """Says how large a tokenizer became; of little text, that is less than was asked for."""
    if size < wanted:
        return f"vocabulary: {size:,} tokens; {wanted:,} were asked for, and this text gives no more"
    return f"vocabulary: {size:,} tokens"


def extend(*args: Args, model: Path, output: Path, config: Path | None = None, session: Common = DEFAULT) -> None:
    """Add the words of a domain to a tokenizer, and rows to its model; every old id keeps its token.

    A new row is the mean of the rows of the subwords into which the word was split before.

    Args:
        args: PATH... [--field value]...: text of the domain, then fields such as --tokens 1000 --segmenter jieba.
        model: folder of a model with its tokenizer, or of a tokenizer alone.
        output: folder for the extended one.
        config: TOML file of fields; fields of the command line override it.
    """
    session.start()
    refuse_existing(output)
    session.say(f"extending {model} with words of {', '.join(split_args(args)[0])} -> {output}")
    from pretune.interop.huggingface import write_model
    from pretune.interop.run_folder import check_has_model, check_is_model
    from pretune.interop.weights import SHARD_BYTES
    from pretune.text.readers.corpus import DataStats, read_corpus
    from pretune.text.tokenizer.extend import ExtendConfig, extend_tokenizer
    from pretune.text.tokenizer.files import TOKENIZER_FILES
    from pretune.text.tokenizer.folder import transformer_folder
    from pretune.text.tokenizer.tokenizer import Tokenizer

    paths, corpus, settings = _settings(args, config, ExtendConfig, "extend")
    if not any((model / name).exists() for name in TOKENIZER_FILES):
        check_is_model(model)
    check_has_model(model)
    old = Tokenizer.load(model)
    for note in old.notes:
        session.say(note)
    stats = DataStats()
    session.say(f"looking for up to {settings.tokens:,} words that are split into subwords")
    with Meter(session) as meter, NewFolder(output) as folder:
        texts = (document.text for document in read_corpus(paths, corpus, stats))
        extended = extend_tokenizer(old, meter.watch(texts, stats), settings)
        meter.close()
        has_model = model.suffix == ".gguf" or (transformer_folder(model) / "config.json").is_file()
        network = _extended_model(model, extended) if has_model else None
        for note in network.loaded.messages() if network is not None and network.loaded is not None else ():
            session.say(note)
        with storage_errors(output, "save what was extended"):
            if network is None:
                extended.tokenizer.write(folder.path)
            else:
                write_model(network, folder.path, extended.tokenizer, max_shard_bytes=SHARD_BYTES)
            folder.publish(last="tokenizer.json")
    best = ", ".join(candidate.word for candidate in list(extended.words.values())[:8])
    saved = sum(candidate.saved for candidate in extended.words.values())
    words = counted(len(extended.words), "new token")
    session.say(f"{stats.summary()}\nvocabulary: {words}, {counted(saved, 'token')} fewer in this text; best: {best}")
    session.say(f"written: {output}")
    _say_prepare(session, paths, corpus, output)


def _extended_model(model: Path, extended: Extended) -> LanguageModel:
    """The model of a folder with rows for the words that its tokenizer got."""
    from pretune.interop.huggingface import load_model
    from pretune.models.vocabulary import extend_vocabulary

    network = load_model(model)
    origins = {id: candidate.subwords for id, candidate in extended.words.items()}
    extend_vocabulary(network, extended.tokenizer.vocabulary.size, origins)
    return network


def _settings(
    args: tuple[str, ...], config: Path | None, schema: type[C], name: str
) -> tuple[list[str], CorpusConfig, C]:
    """Returns paths, how they are read, and the other fields, of a file and of the command line over it."""
    from pretune import config as configuration
    from pretune.text.readers.corpus import CorpusConfig

    paths, fields = split_args(args)
    tree = configuration.read_toml(config) if config else {}
    names = configuration.names_of(schema, corpus=CorpusConfig)
    tree = configuration.merge(tree, configuration.parse_overrides(fields, names, tree))
    corpus = configuration.validate(CorpusConfig, tree.pop("corpus", {}), "corpus")
    return paths, corpus, configuration.validate(schema, tree, name)


def prepare(*args: Args, tokenizer: Path, output: Path, config: Path | None = None, session: Common = DEFAULT) -> None:
    """Tokenize text into a token store.

    Killed and started again, it produces the same bytes.

    Args:
        args: PATH... [--field value]...: text files, then fields such as --processes 4.
        tokenizer: folder or file of a tokenizer.
        output: folder for the store.
        config: TOML file of fields; fields of the command line override it.
    """
    session.start()
    paths, fields = split_args(args)
    session.say(f"tokenizing {', '.join(paths)} with {tokenizer} -> {output}")
    from pretune import config as configuration
    from pretune.report.next_commands import field_flags
    from pretune.text.readers.corpus import DataStats
    from pretune.text.store import prepare as preparing
    from pretune.text.store.held_out import few_held_out
    from pretune.text.tokenizer.tokenizer import Tokenizer

    settings = configuration.load(preparing.PrepareConfig, config, fields, name="prepare")
    words_to_ids = Tokenizer.load(tokenizer)
    for note in words_to_ids.notes:
        session.say(note)
    with Meter(session) as meter:
        store = preparing.prepare(paths, words_to_ids, output, settings, meter.show)
    session.say(DataStats(**store.manifest.data_stats).summary())
    for name in ("train", "validation"):
        split = store.split(name)
        session.say(f"{name}: {counted(split.document_count, 'document')}, {counted(split.token_count, 'token')}")
    for warning in few_held_out(store):
        session.say(f"warning: {warning}")
    text = shlex.join([*paths, *field_flags(settings.corpus, "corpus.")])
    _say_unknown(session, store, text, lambda: preparing.sample_unknown(paths, words_to_ids, settings))
    session.say(f"written: {output}")
    flags = "--objective clm --model.family gpt2" if words_to_ids.vocabulary.mask is None else "--objective mlm"
    stores = shlex.quote(str(output))
    session.say(f"next: pretune pretrain {flags} --stores {stores} --steps 1000 --output run")


def _say_unknown(session: Session, store: TokenStore, text: str, sample: Callable[[], UnknownTokens]) -> None:
    """Says which part of a store's tokens the tokenizer does not know, with some of the texts.

    Args:
        text: the arguments of a command that name the text.
    """
    from pretune.text.tokenizer.unknown import describe_unknown

    splits = [store.split(name).manifest for name in ("train", "validation")]
    unknown, tokens = sum(split.unknown for split in splits), sum(split.tokens for split in splits)
    if unknown:
        command = f"pretune tokenizer train {text} --output new-tokenizer"
        remedy = f"train a tokenizer on this text and prepare with that one: {command}"
        sample_note = sample().describe_sample("the first 2,000 documents")
        session.say(str(describe_unknown(unknown, tokens, "", sample_note, remedy)))


class Meter:
    """Shows the progress of reading text: in place on a terminal, every ten seconds elsewhere.

    At its end, and where an error or Ctrl-C ends it, the line in place is cleared before anything else is said.
    """

    def __init__(self, session: Session) -> None:
        self._is_silent = session.silent
        self._live = sys.stderr.isatty()
        self._last = time.monotonic()
        self._width = 0  # of the line that is shown in place

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()

    def show(self, progress: Progress) -> None:
        """Shows the newest numbers of a store."""
        if not self._is_due():
            return
        rate = progress.bytes / max(progress.seconds, 1e-9) / 1e6
        line = f"{progress.documents:,} documents, {progress.bytes / 1e6:,.0f} MB, {progress.tokens:,} tokens"
        self._print(f"{line}, {rate:.1f} MB/s")

    def show_training(self, progress: TrainProgress) -> None:
        """Shows how far the training of a tokenizer is."""
        if self._is_due():
            size = f"{progress.bytes / 1e6:,.0f} MB"
            self._print(f"reading, {size}" if progress.is_reading else f"training on {size}, {progress.seconds:.0f} s")

    def watch(self, texts: Iterable[str], stats: DataStats) -> Iterator[str]:
        """Hands texts on and shows how much was read.

        Args:
            stats: of what is read.
        """
        from pretune.text.tokenizer.spool import TrainProgress

        for text in texts:
            self.show_training(TrainProgress(is_reading=True, bytes=stats.bytes))
            yield text

    def _is_due(self) -> bool:
        now = time.monotonic()
        if self._is_silent or now - self._last < (0.2 if self._live else 10.0):
            return False
        self._last = now
        return True

    def close(self) -> None:
        """Clears the line that is shown in place."""
        if self._live and self._width:
            self._print("")

    def _print(self, line: str) -> None:
        """Prints over the line before, whose end would be left over where it was longer; never more than a row."""
        line = translate(line)
        if self._live:
            line = line[: shutil.get_terminal_size().columns - 1]
        text = f"{line.ljust(self._width)}\r" if self._live else f"{line}\n"
        self._width = len(line)
        print(text, end="", file=sys.stderr, flush=True)


def refuse_existing(output: Path) -> None:
    """Refuses to write into a folder that is not empty; one that a killed process had ready is finished first.

    Raises:
        CannotCreateError: the folder is not empty.
    """
    settle(output)
    if output.exists() and (not output.is_dir() or contents(output)):
        raise CannotCreateError(f"{output}: exists already; remove it, or give another --output")


def split_args(args: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Splits arguments into paths, which come first, and `--field value` pairs, which follow.

    Raises:
        UsageError: no path.
    """
    first = next((n for n, arg in enumerate(args) if arg.startswith("--")), len(args))
    if not first:
        raise UsageError("name the text first: files, folders or globs (.txt .jsonl .csv .tsv .parquet, .gz, .zst)")
    return list(args[:first]), list(args[first:])
