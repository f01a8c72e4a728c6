"""The verb that judges texts: judge."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Group, Parameter

from pretune.cli.answers import WORKBOOK, AnswerRow, is_terminal, open_answers
from pretune.cli.data import Names, split_args
from pretune.cli.inputs import NO_FILE_FLAGS, Files, split_names
from pretune.cli.loading import load_model, written
from pretune.cli.outputs import check_output, open_output, suffix_of
from pretune.cli.session import DEFAULT, Args, Common, Session
from pretune.errors import NonFiniteError, UsageError
from pretune.wording import counted

if TYPE_CHECKING:
    from pretune.evaluate.aligned import AlignedTexts
    from pretune.evaluate.judging import Judged, JudgeOptions
    from pretune.metrics.metric import Texts
    from pretune.text.readers.files import SourceConfig

_TEXT = ("generated_text", "hypothesis", "text")  # names of columns that are read where none is named
_REFERENCE = ("reference", "references", "target", "text")
_SOURCE = ("source", "text")


@dataclass(frozen=True)
class ModelFlags:
    """Models that judge.

    Attributes:
        judge: folder of a language model: how fluent the texts are to it (bits per byte, perplexity).
        tagger: folder of a model that was fine-tuned for tagging: which of the names that it finds the sources hold.
        entailment: folder of a classifier of pairs: whether the sources entail what the texts say.
    """

    judge: Path | None = None
    tagger: Path | None = None
    entailment: Path | None = None

    def given(self) -> dict[str, Path]:
        """The folders that are named, by their flags."""
        flags = {"judge": self.judge, "tagger": self.tagger, "entailment": self.entailment}
        return {name: path for name, path in flags.items() if path is not None}


Models = Annotated[ModelFlags, Parameter(name="*", group=Group("Models that judge", sort_key=2))]
NO_MODELS = ModelFlags()


@dataclass(frozen=True)
class ColumnFlags:
    """Columns of files that are tables.

    Attributes:
        text: column of the hypotheses; by default generated_text, which `pretune predict` writes, else text.
        reference: columns of the references: texts, or lists of texts; without `--references` of the hypotheses' file.
        source: column of the sources; without `--sources` of the hypotheses' file.
        files: how files are read.
    """

    text: str | None = None
    reference: Names = ()
    source: str | None = None
    files: Files = NO_FILE_FLAGS


Columns = Annotated[ColumnFlags, Parameter(name="*")]
NO_COLUMNS = ColumnFlags()


def register(app: App, group: Group, sort_key: int) -> None:
    """Adds this verb to the command line."""
    usage = "pretune judge HYPOTHESES [OTHER] [--references FILE...] [--sources FILE] [--flag VALUE]..."
    app.command(judge, group=group, sort_key=sort_key, usage=usage)


def judge(
    *args: Args,
    references: Names = (),
    sources: Path | None = None,
    metrics: Names = (),
    language: str | None = None,
    columns: Columns = NO_COLUMNS,
    models: Models = NO_MODELS,
    samples: int = 1000,
    test: Literal["bootstrap", "randomization"] = "bootstrap",
    output: Path | None = None,
    texts: Path | None = None,
    as_json: Annotated[bool, Parameter(name="--json")] = False,
    session: Common = DEFAULT,
) -> None:
    """Judge texts: BLEU, chrF, ROUGE and others beside references, fluency, and whether sources hold what is said.

    Prints a table of scores with their intervals on a terminal, JSON in a pipe. With a second file of hypotheses the
    two systems are compared on the same texts.

    Metrics: bleu, chrf, distinct, edit, exact, names, numbers, parses, repetition, rouge, ter, or a file of your own.

    Args:
        args: HYPOTHESES [OTHER] [--metric.field value]...: a file of texts, one per line, or a table; a second one of
            another system; then fields of metrics such as --bleu.tokenize char.
        references: files of right texts, aligned with the hypotheses; of several each gives one more reference.
        sources: file of what the hypotheses were written from.
        metrics: names, such as bleu,rouge; by default what the files allow.
        language: code of the language of the references, such as zh; by default their script says it.
        samples: draws of which the 95 % intervals are made; 0 for none.
        test: how two systems are compared: bootstrap, or randomization.
        output: file to write the scores to as well, as JSON.
        texts: file to write the scores of each text to: .csv, .tsv, .xlsx or .jsonl.
        as_json: print JSON on a terminal too.
    """
    _check_outputs(output, texts, samples)
    paths, fields = split_args(args)
    if len(paths) > 2:
        raise UsageError(f"{paths[2]}: expected one file of hypotheses, or two; name references with --references")
    session.say(f"judging {' beside '.join(paths)}")
    from pretune.evaluate.judging import JudgeOptions, default_metrics, judge_texts
    from pretune.metrics.words import base_language

    if language:
        base_language(language)
    files = _AlignedFiles.read(paths, references, sources, columns)
    read = files.texts(language)
    _say_texts(session, files, read)
    loaded = {name: load_model(path, session) for name, path in models.given().items()}
    names = list(split_names(metrics)) or default_metrics(read, loaded)
    options = JudgeOptions(names, {}, loaded, samples, test)
    options = JudgeOptions(names, _settings(options, names, fields), loaded, samples, test)
    by_script = "" if language else ", by the script of the texts; --language names another"
    session.say(f"measuring {', '.join([*names, *models.given()])}; language {read.language}{by_script}")
    try:
        judged = judge_texts(read, options, files.other)
    except NonFiniteError as error:
        raise error.at(files.origins[error.index]) from None
    for note in [*judged.notes, *(judged.other.notes if judged.other else ())]:
        session.say(note)
    _show(judged, as_json)
    _save(session, judged, files, output, texts)


def _settings(options: JudgeOptions, names: Sequence[str], fields: Sequence[str]) -> Mapping[str, Mapping[str, Any]]:
    """The fields of metrics, checked."""
    from pretune import config as configuration
    from pretune.evaluate.judging import settings_schema

    settings = configuration.load(settings_schema(options, names), None, fields, name="judge")
    return {name: tree for name, tree in settings.model_dump(exclude_unset=True).items() if tree}


@dataclass(frozen=True)
class _AlignedFiles:
    """What the files hold.

    Attributes:
        hypotheses: of the system.
        origins: where each is.
        other: hypotheses of the other system.
        references, sources: see `Texts`.
        fewer: how many texts have fewer references than others.
    """

    hypotheses: list[str]
    origins: list[str]
    other: list[str] | None
    references: list[list[str]]
    sources: list[str]
    fewer: int

    @classmethod
    def read(
        cls, paths: Sequence[str], references: Sequence[str], sources: Path | None, columns: ColumnFlags
    ) -> _AlignedFiles:
        """Reads all files.

        Raises:
            DataError: files of unequal length, an empty reference or source.
        """
        from pretune.evaluate import aligned

        config = _source_config(columns)
        wanted = split_names(columns.reference)

        def column(path: Path, names: Sequence[str]) -> AlignedTexts:
            return aligned.read_aligned(path, names, config)

        system, *others = [column(Path(path), [columns.text] if columns.text else _TEXT) for path in paths]
        right = [
            column(path, [name] if name else _REFERENCE)
            for path in aligned.iterate_paths(references or (paths[:1] if wanted else ()))
            for name in (wanted or [""])
        ]
        origin = sources if sources is not None or columns.source is None else Path(paths[0])
        read = [column(origin, [columns.source] if columns.source else _SOURCE)] if origin is not None else []
        aligned.check_aligned(system, [*others, *right, *read])
        joined, fewer = aligned.join_references(right) if right else ([], 0)
        return cls(
            aligned.single_texts(system, "hypothesis"),
            [system.origin(position) for position in range(len(system))],
            aligned.single_texts(others[0], "hypothesis") if others else None,
            joined,
            aligned.check_sources(read[0]) if read else [],
            fewer,
        )

    def texts(self, language: str | None) -> Texts:
        """The texts of the first system."""
        from pretune.metrics.metric import Texts

        return Texts.of(self.hypotheses, self.references, self.sources, language)


def _source_config(columns: ColumnFlags) -> SourceConfig:
    from pretune.config import validate
    from pretune.text.readers.files import SourceConfig

    return validate(SourceConfig, columns.files.settings(), "files")


def _check_outputs(output: Path | None, texts: Path | None, samples: int) -> None:
    """Refuses, before any work, what cannot be written or drawn."""
    if output is not None and suffix_of(output) != ".json":
        raise UsageError(f"--output {output}: scores are written as JSON; expected a name that ends in .json")
    check_output(output)
    check_output(texts, WORKBOOK)
    if samples and samples < 40:
        raise UsageError(f"--samples {samples}: expected 40 draws or more for an interval of 95 %, or 0 for none")


def _say_texts(session: Session, files: _AlignedFiles, read: Texts) -> None:
    """Says how many texts are judged, and which of them are odd."""
    most = max(map(len, read.references), default=0)
    parts = [counted(len(read.hypotheses), "text")]
    bound = " at most" if files.fewer else ""
    parts += [f"{counted(most, 'reference')} each{bound}" if most > 1 else "one reference each"] if most else []
    session.say(", ".join(parts) + (f"; {files.fewer:,} of them have fewer references" if files.fewer else ""))
    if empty := sum(not text.strip() for text in read.hypotheses):
        session.say(f"{counted(empty, 'hypothesis', 'hypotheses')} of them empty; most metrics count that as 0")


def _show(judged: Judged, as_json: bool) -> None:
    from pretune.evaluate.judging import to_json

    if as_json or not is_terminal():
        print(to_json(judged))
        return
    for table in judged.tables():
        table.print(sys.stdout)
    for name, signature in judged.signatures.items():
        print(f"{name}: {signature}")


def _save(session: Session, judged: Judged, files: _AlignedFiles, output: Path | None, texts: Path | None) -> None:
    from pretune.evaluate.judging import to_json

    if output is not None:
        with open_output(output) as file:
            file.write(to_json(judged) + "\n")
        written(session, output)
    if texts is not None:
        with open_answers(texts) as writer:
            for origin, hypothesis, row in zip(files.origins, files.hypotheses, judged.rows(), strict=True):
                writer.write(AnswerRow({"origin": origin, "hypothesis": hypothesis}, row))
        written(session, texts)
    elif is_terminal():
        session.say("the scores of each text: --texts texts.csv")
