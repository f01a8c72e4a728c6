"""Shows help of a verb: the flags that matter, with true defaults and an example; with `--help-all` every field.

`pretune VERB --help`, `pretune help VERB` and `pretune VERB --help-all` all come here; the verbs whose fields are those
of a configuration class (`--optimizer.lr 3e-4`) are described in `VERBS`.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pretune.cli.help_panels import FLAGS, FULL, shows_all
from pretune.cli.translated_help import TranslatedFormatter
from pretune.language import translate
from pretune.language.wrap import fill

if TYPE_CHECKING:
    from cyclopts import App

    from pretune.cli.variant_files import FieldEntry
    from pretune.config import ConfigDict
    from pretune.train.recipe import Recipe

_CLAUSE = re.compile(r"[.;。；](?:\s|$)|。|；")


@dataclass(frozen=True)
class ConfiguredVerb:
    """A verb that takes fields of configuration classes.

    Attributes:
        schemas: module and name of each class, by the table that its fields stand in.
        main: dotted names of the fields that `--help` shows.
        hidden: dotted names, or tables, of fields that the verb has no use for.
    """

    schemas: Mapping[str, str]
    main: Sequence[str]
    hidden: Sequence[str] = ()


_RECIPE = {"": "pretune.train.recipe:Recipe"}
_CORPUS = {"corpus": "pretune.text.readers.corpus:CorpusConfig"}
_OF_STORES = ("stores", "weights", "temperature", "schedule", "start_length", "length_warmup", "pack")
_HOLDOUT = ("data.holdout", "data.group", "data.folds", "data.fold")
_COMMON = ("device", "precision", "threads")  # flags of every verb
_SHORT = {"calibration.data": "calibration", "evaluation.data": "evaluate", "quantize.format": "format"}  # of compress
VERBS: Mapping[str, ConfiguredVerb] = {
    "tokenizer train": ConfiguredVerb(
        {"": "pretune.text.tokenizer.train:TokenizerConfig", **_CORPUS},
        ("kind", "vocab_size", "lowercase", "special_tokens", "max_bytes", "corpus.text", "corpus.documents"),
    ),
    "tokenizer extend": ConfiguredVerb(
        {"": "pretune.text.tokenizer.extend:ExtendConfig", **_CORPUS},
        ("tokens", "min_count", "segmenter", "corpus.text", "corpus.documents"),
    ),
    "prepare": ConfiguredVerb(
        {"": "pretune.text.store.prepare:PrepareConfig"},
        ("corpus.text", "corpus.documents", "validation", "segmenter", "processes", "overwrite"),
    ),
    "augment": ConfiguredVerb(
        {"": "pretune.augment.files:AugmentConfig"}, ("methods", "copies", "keep", "pairs", "seed"), ("columns.id",)
    ),
    "mine": ConfiguredVerb(
        {"": "pretune.search.negatives:MiningConfig"}, ("negatives", "depth", "ratio", "sample", "random", "seed")
    ),
    "pretrain": ConfiguredVerb(
        _RECIPE,
        (
            *("objective", "data.stores", "model.family", "model.size", "model.init", "budget.steps", "optimizer.lr"),
            *("data.batch", "data.length", "seed", "output"),
        ),
        ("task", "data.train", "data.validation", "data.columns", *_HOLDOUT, *_COMMON),
    ),
    "finetune": ConfiguredVerb(
        _RECIPE,
        (
            *("task", "model.init", "data.train", "data.validation", "data.columns.text", "data.columns.label"),
            *("data.columns.second", "data.folds", "budget.epochs", "optimizer.lr", "data.batch", "data.length"),
            "search",
            *("tune", "seed", "output"),
        ),
        ("objective", *(f"data.{name}" for name in _OF_STORES), *_COMMON),
    ),
    "show": ConfiguredVerb(_RECIPE, (), _COMMON),
    "compress": ConfiguredVerb(
        {
            "": "pretune.train.compression.recipe:CompressRecipe",
            "quantize": "pretune.compress.quantize:Config",
            "prune": "pretune.compress.prune:Config",
        },
        (
            *("output", "calibration.data", "evaluation.data", "quantize.format", "quantize.values", "quantize.keep"),
            *("prune.layers", "prune.heads", "prune.inner", "prune.sparsity", "seed"),
        ),
        ("model", "compress", "calibration.columns", *_COMMON),
    ),
}  # fmt: skip
_CHOICES = {"objective": "objectives", "task": "tasks", "tune": "tune", "model.family": "models"}
_CHOOSING = {
    "--objective": ("objective",),
    "--task": ("task",),
    "--tune": ("tune",),
    "--optimizer": ("optimizer", "name"),
    "--optimizer.name": ("optimizer", "name"),
    "--model.family": ("model", "family"),
    "--family": ("model", "family"),
}
"""Flags that choose a variant, and where a recipe says so."""
_DEFAULTS: Mapping[str, dict[str, Any]] = {"finetune": {"task": "classification"}}
_OF_DATA = ("budget.epochs", "optimizer.lr", "data.batch")  # what finetune chooses by itself
EXAMPLES: Mapping[str, Sequence[str]] = {
    "corpus pydocs": ("pretune corpus pydocs pydocs.jsonl",),
    "tokenizer train": ("pretune tokenizer train corpus.txt --vocab-size 8000 --output tokenizer",),
    "tokenizer extend": ("pretune tokenizer extend domain.txt --model bert --tokens 500 --output extended",),
    "prepare": ("pretune prepare corpus.txt --tokenizer tokenizer --output store",),
    "mine": ("pretune mine minilm pairs.jsonl --negatives 3 --output hard.jsonl",),
    "augment": ("pretune augment train.csv --methods swap,deletion --copies 2 --output more.csv",),
    "judge": (
        "pretune judge system.de --references test.de --metrics bleu,chrf",
        "pretune judge answers.jsonl --reference summary --source document --entailment nli",
    ),
    "labels check": ("pretune labels check train.csv --output suspects.csv",),
    "labels next": ("pretune labels next unlabelled.csv --labelled train.csv --count 50 --output next.csv",),
    "show": ("pretune show tasks", "pretune show mlm", "pretune show recipe.toml"),
    "pretrain": ("pretune pretrain --objective mlm --stores store --steps 1000 --output bert",),
    "finetune": (
        "pretune finetune --task classification --model bert --train train.csv --text text --label label "
        "--output classifier",
    ),
    "init": (
        "pretune init classification --model bert --train train.csv --text text --label label",
        "pretune init",
    ),
    "runs": ("pretune runs .",),
    "report": ("pretune report classifier",),
    "evaluate": ("pretune evaluate classifier test.csv",),
    "evaluate clue": ("pretune evaluate clue CLUE --model bert --seeds 3 --output clue",),
    "evaluate lm": ("pretune evaluate lm piqa.jsonl blimp/ --model gpt2 --output gpt2.json",),
    "predict": (
        'pretune predict classifier "a text to label"',
        "pretune predict classifier new.csv --text title --output out.csv",
    ),
    "fill": ('pretune fill bert "The answer is [MASK]."',),
    "generate": ('pretune generate gpt2 "Once upon a time" --max-new-tokens 40',),
    "chat": ('pretune chat gpt2 "What is the capital of France?" --template plain',),
    "score": ('pretune score gpt2 "How likely is this?"',),
    "embed": (
        "pretune embed bert new.csv --of words --layers -1,-2 --output words.jsonl",
        "pretune embed bert new.csv --output vectors.npy",
    ),
    "export": ("pretune export classifier exported",),
    "merge": ("pretune merge tuned --output plain",),
    "join": ("pretune join bert bert --output bert2bert",),
    "delta add": ("pretune delta add polite short --output both",),
    "delta average": ("pretune delta average seed1 seed2 seed3 --output mean",),
    "delta subtract": ("pretune delta subtract tuned rude --output polite",),
    "verify": ("pretune verify classifier",),
    "compress": (
        "pretune compress prune bert --layers 0.5 --calibration train.csv --train train.csv --output smaller",
        "pretune compress quantize gpt2 --format q4_0 --values gptq --calibration texts.txt --output small",
    ),
    "index": (
        "pretune index handbook/ --model minilm --output handbook.index",
        "pretune index articles.jsonl --text body --output articles.index",
    ),
    "index add": ("pretune index add handbook.index new/ --update",),
    "index delete": ("pretune index delete handbook.index handbook/returns.md",),
    "index compact": ("pretune index compact handbook.index",),
    "index evaluate": ("pretune index evaluate corpus.index --queries queries.jsonl --qrels qrels/test.tsv",),
    "index tune": ("pretune index tune corpus.index --queries queries.jsonl --qrels qrels/dev.tsv --reranker ranker",),
    "search": (
        'pretune search handbook.index "how do I return a parcel?" --count 3',
        "pretune search handbook.index queries.csv --where language=en --output hits.csv",
    ),
    "answer": ('pretune answer handbook.index "how long do I have to return it?" --reader reader',),
    "demo": ("pretune demo --output demo",),
}


def finish_help(app: App, args: Sequence[str], common: Sequence[str]) -> None:
    """Prints what follows the panels of cyclopts: fields, the flags of every verb in a line, an example.

    Args:
        args: the command line.
        common: the flags of every verb.
    """
    verb = _verb_of(app, args)
    if verb is None:
        return
    configured = VERBS.get(verb)
    if configured is not None and shows_all.get():
        print("\n".join(_all_fields(verb, configured, args)))
    elif configured is not None and configured.main:
        _print_main_fields(verb, configured)
    width = shutil.get_terminal_size().columns
    if not shows_all.get():
        print("\n".join(fill(line, width) for line in translate(_others(f"{app.name[0]} {verb}", common)).split("\n")))
    if examples := EXAMPLES.get(verb, ()):
        print("\n" + translate("Example:" if len(examples) == 1 else "Examples:"))
        print("\n".join(_folded(line, width) for line in examples))


def _verb_of(app: App, args: Sequence[str]) -> str | None:
    """The verb that a command line names, such as `tokenizer train`; None of none, or of a group of verbs."""
    chain, apps, _ = app.parse_commands([word for word in args if word not in FLAGS])
    return " ".join(chain) if chain and apps[-1].default_command is not None else None


def _others(verb: str, common: Sequence[str]) -> str:
    return f"Every verb: {', '.join(common)}.\nEvery flag, explained: {verb} {FULL}"


def _folded(command: str, width: int) -> str:
    """A command that can be copied whole, on as many lines as it needs; a flag stands beside its value."""
    lines = [""]
    for part in re.split(r" (?=--)", command):
        if lines[-1] and len(lines[-1]) + len(part) + 9 > width:
            lines.append("")
        lines[-1] += f" {part}" if lines[-1] else part
    return " \\\n".join(f"{'      ' if number else '  '}{line}" for number, line in enumerate(lines))


def _entries(configured: ConfiguredVerb, values: Recipe | None) -> Iterator[FieldEntry]:
    """The fields of a verb: of a recipe with its values, of other classes as their files say, which is quicker."""
    from pretune.cli.fields import entries
    from pretune.cli.variant_files import read_config

    fields: list[FieldEntry] = [] if values is None else list(entries(type(values), values=values))
    for table, target in configured.schemas.items() if values is None else ():
        module, _, name = target.partition(":")
        fields += read_config(module, name, f"{table}." if table else "")
    for entry in fields:
        if not any(entry.name == name or entry.name.startswith(f"{name}.") for name in configured.hidden):
            yield entry


def fields_of(verb: str, configured: ConfiguredVerb) -> list[FieldEntry]:
    """The fields of a verb that it has a use for."""
    values = _recipe(_DEFAULTS.get(verb, {})) if configured.schemas == _RECIPE else None
    return list(_entries(configured, values))


def chosen_axes() -> dict[str, list[str]]:
    """The names that may be chosen, by the dotted name of the field that chooses."""
    return {name: _choices(axis) for name, axis in {**_CHOICES, "optimizer.name": "optim"}.items()}


def short_names(configured: ConfiguredVerb) -> dict[str, str]:
    """The short flag of each dotted name that has one."""
    if configured.schemas != _RECIPE:
        return dict(_SHORT) if configured.schemas.get("", "").startswith("pretune.train.compression") else {}
    from pretune.train.recipe import Recipe

    names: Mapping[str, str] = getattr(Recipe, "SHORT_NAMES", {})
    return {dotted: short for short, dotted in reversed(list(names.items()))}


def _print_main_fields(verb: str, configured: ConfiguredVerb) -> None:
    """Prints a panel of the fields that matter, by their short names."""
    from cyclopts.help import HelpEntry, HelpPanel
    from rich.console import Console
    from rich.text import Text

    values = _recipe(_DEFAULTS.get(verb, {})) if configured.schemas == _RECIPE else None
    by_name = {entry.name: entry for entry in _entries(ConfiguredVerb(configured.schemas, ()), values)}
    short = short_names(configured)
    panel = HelpPanel(format="parameter", title="Flags")
    for name in configured.main:
        entry = by_name[name]
        text = _CLAUSE.split(translate(entry.meaning), maxsplit=1)[0]
        if name in _CHOICES:
            text = f"{re.split('[:：]', text)[0]}: {', '.join(_choices(_CHOICES[name]))}"
        metavar = "A|B" if "|" in entry.type else entry.type
        choices = tuple(entry.type.split("|")) if "|" in entry.type else None
        end = name.rpartition(".")[2]
        is_alone = sum(other.rpartition(".")[2] == end for other in by_name) == 1
        flag = f"--{short.get(name, end if is_alone else name).replace('_', '-')}"
        panel.entries.append(
            HelpEntry(
                positive_names=(flag,),
                metavar={"LIST": "VALUE,...", "TABLE": "NAME"}.get(metavar, metavar),
                description=Text(text),
                choices=choices,
                default=_shown_default(verb, name, entry.default),
            )
        )
    console = Console()
    TranslatedFormatter()(console, console.options, panel)


def _shown_default(verb: str, name: str, default: str) -> str | None:
    """The default of a field as help shows it; None where there is none to show."""
    if verb == "finetune" and name in _OF_DATA:
        return translate("from the data")
    return default if default and name not in _DEFAULTS.get(verb, {}) else None


def _choices(axis: str) -> list[str]:
    from pretune.find import variants

    return variants(axis)


def _all_fields(verb: str, configured: ConfiguredVerb, args: Sequence[str]) -> Iterator[str]:
    """Renders every field of a verb, and of what its command line chooses."""
    from pretune.cli.fields import render_fields

    tree = _chosen(args)
    values = _recipe(tree or _DEFAULTS.get(verb, {})) if configured.schemas == _RECIPE else None
    short = short_names(configured)
    entries = list(_entries(configured, values))
    yield "\n" + translate("Fields, in a recipe or on the command line:") + "\n"
    yield render_fields(entries)
    if configured.schemas == _RECIPE:
        yield "\n" + translate(f"{', '.join(_COMMON)}: as the flags of every verb; they may stand in a recipe, too")
    if known := [f"--{short[entry.name]} = --{entry.name}" for entry in entries if entry.name in short]:
        yield "\n" + translate("Short names:") + "\n  " + "\n  ".join(known)
    if configured.schemas == _RECIPE:
        yield from _variant_fields(verb, tree)


def _variant_fields(verb: str, tree: ConfigDict) -> Iterator[str]:
    """Renders the fields of the objectives, the task, the method and the family that are chosen."""
    from pretune.cli.lists import AXES, render_variant_fields
    from pretune.cli.variant_files import is_own_file

    for title, (axis, flag) in AXES.items():
        if title == "chat_templates":  # they have no fields
            continue
        names = _names(tree, title)
        known = _choices(axis)
        for name in names:
            if (name in known or is_own_file(name)) and (text := render_variant_fields(name, title)):
                yield f"\n{flag.format(name)}:\n\n{text}"
        if title == "losses" and "similarity" not in tree.get("task", {}):
            continue
        if not names and title not in ("objectives" if verb == "finetune" else "tasks", "families"):
            hint = f"pretune {verb} {flag.format('NAME')} {FULL} adds the fields of one of: {', '.join(known)}"
            yield "\n" + translate(hint)


def _names(tree: ConfigDict, title: str) -> list[str]:
    if title == "losses":
        task = tree.get("task", {}).get("similarity", {})
        loss = task.get("loss", ()) if isinstance(task, dict) else ()
        return [loss] if isinstance(loss, str) else list(loss)
    table = {"tasks": "task", "objectives": "objective", "tuning": "tune"}.get(title)
    if table is not None:
        return list(tree.get(table, {}))
    section, field = {"families": ("model", "family"), "optimizers": ("optimizer", "name")}[title]
    inner = tree.get(section, {})
    return [str(inner[field])] if isinstance(inner, dict) and field in inner else []


def _chosen(args: Sequence[str]) -> ConfigDict:
    """What a command line chooses of the axes; people ask for help in the middle of one, so that it is not parsed."""
    from pretune.config import merge, read_toml
    from pretune.errors import PretuneError

    tree: ConfigDict = {}
    for word, after in zip(args, [*args[1:], ""], strict=True):
        flag, equals, value = word.partition("=")
        if word.endswith(".toml") and not flag.startswith("-"):
            with suppress(PretuneError):
                tree = merge(read_toml(Path(word)), tree)
        elif flag in _CHOOSING and (value or not after.startswith("-")):
            tree = merge(tree, _branch(_CHOOSING[flag], value if equals else after))
    return {name: value for name, value in tree.items() if name in ("objective", "task", "tune", "optimizer", "model")}


def _branch(path: Sequence[str], value: str) -> ConfigDict:
    if len(path) == 1:
        return {path[0]: {name.strip(): {} for name in value.split(",")}}
    return {path[0]: {path[1]: value}}


def _recipe(tree: ConfigDict) -> Recipe | None:
    """A recipe with the defaults that follow from what is chosen; None of a choice that is none."""
    from pydantic import ValidationError

    from pretune.errors import PretuneError
    from pretune.train.recipe import Recipe

    try:
        return Recipe.model_validate(tree)
    except (ValidationError, PretuneError):
        return None
