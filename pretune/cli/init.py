"""The verb that writes a recipe: init. What its flags do not say, it asks on a terminal."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from pretune.cli.recipe_text import Field, Table, render_recipe
from pretune.cli.session import DEFAULT, Common, Session
from pretune.disk import new_file
from pretune.errors import CannotCreateError, MissingInputError, PretuneError, UsageError
from pretune.language import translate
from pretune.missing_paths import no_such_folder
from pretune.runtime.screen import Screen

Purpose = Literal["classification", "pretraining", "continued-pretraining"]
PURPOSES = {
    "classification": "a model learns the labels of your texts",
    "pretraining": "a model from random weights learns from raw text",
    "continued-pretraining": "a model that you have goes on with the raw text of your field",
}
_TEXTS = ("text", "sentence", "review", "content", "title", "question", "comment", "sentence1", "text1", "query")
_LABELS = ("label", "labels", "category", "class", "target", "sentiment", "intent", "rating")
_CAUSAL = ("LMHeadModel", "ForCausalLM")


def init(
    purpose: Purpose | None = None,
    /,
    *,
    output: Path = Path("recipe.toml"),
    model: str | None = None,
    train: str | None = None,
    validation: str | None = None,
    text: str | None = None,
    label: str | None = None,
    second: str | None = None,
    columns: str | None = None,
    stores: str | None = None,
    objective: str | None = None,
    family: str | None = None,
    size: str | None = None,
    run: str | None = None,
    session: Common = DEFAULT,
) -> None:
    """Write a recipe with comments, ready to run. What no flag says is asked on a terminal.

    Args:
        purpose: classification, pretraining or continued-pretraining.
        output: the recipe to write.
        model: folder of the model to start from.
        train: labelled file.
        validation: labelled file; without it, rows of the training file are held out.
        text: column of the texts.
        label: column of the labels.
        second: column of the second texts, of pairs.
        columns: names of the columns of a file without a header row, such as text,label.
        stores: token store, made by `pretune prepare`.
        objective: what pretraining predicts, such as mlm or clm.
        family: family of a model from random weights, such as bert.
        size: size of a model from random weights, such as mini.
        run: run directory that the recipe names.
    """
    if output.exists():
        raise CannotCreateError(f"{output}: exists already; remove it, or give another --output")
    flags = {"model": model, "train": train, "validation": validation, "text": text, "label": label, "second": second}
    flags |= {"columns": columns, "stores": stores, "objective": objective, "family": family, "size": size, "run": run}
    questions = Questions(session, flags)
    chosen = purpose or questions.choose()
    verb = "finetune" if chosen == "classification" else "pretrain"
    tables = _classification(questions) if verb == "finetune" else _pretraining(questions, chosen)
    questions.refuse_unused(chosen)
    commands = [
        (f"pretune show {shlex.quote(str(output))}", "shows what it would do, and trains nothing"),
        (f"pretune {verb} {shlex.quote(str(output))}", "runs it; run again, it goes on where it stopped"),
        (f"pretune {verb} {shlex.quote(str(output))} --help-all", "explains every field that may stand here"),
    ]
    content = render_recipe(f"{chosen}: {PURPOSES[chosen]}", commands, tables)
    _check(content)
    with new_file(output) as file:
        file.write(content.encode())
    session.say(f"written: {output}")
    session.say("next:\n" + "\n".join(f"  {command}" for command, _ in commands[:2]))


class Questions:
    """Answers by flags; on a terminal also by asking, until an answer is good.

    Args:
        flags: what the flags say, by name.
    """

    def __init__(self, session: Session, flags: Mapping[str, str | None]) -> None:
        self._flags = dict(flags)
        self._can_ask = sys.stdin is not None and sys.stdin.isatty() and not session.quiet

    def choose(self) -> str:
        """Asks what the recipe is for.

        Raises:
            UsageError: nobody can be asked.
        """
        if not self._can_ask:
            raise UsageError(f"init: say what the recipe is for: {', '.join(PURPOSES)}")
        for name, meaning in PURPOSES.items():
            Screen().line(f"  {name:<22} {translate(meaning)}")
        return self.answer("PURPOSE", "What is the recipe for?", "classification", _one_of("PURPOSE", list(PURPOSES)))

    def given(self, name: str) -> str | None:
        """What a flag says that nobody is asked about."""
        return self._flags.pop(name, None)

    def answer(
        self, name: str, question: str, default: str = "", check: Callable[[str], object] = str, *, needed: bool = True
    ) -> str:
        """The answer to a question.

        Args:
            name: of the flag that answers it.
            default: the answer of who gives none.
            check: fails with a PretuneError on a bad answer.
            needed: an empty answer is none.

        Raises:
            PretuneError: a flag's value is bad, or it is missing and nobody can be asked.
        """
        value = self._flags.pop(name, None)
        if value is None and not self._can_ask:
            value = default
        if needed and value == "":
            raise UsageError(f"init: --{name} is missing; give it, or run init on a terminal, where it asks")
        if value is not None:
            if value:
                check(value)
            return value
        while True:
            answer = self._ask(question, default)
            if not answer and not needed:
                return ""
            try:
                check(answer)
            except PretuneError as error:
                Screen().line(str(error))
                continue
            if answer:
                return answer

    def refuse_unused(self, purpose: str) -> None:
        """Refuses flags that say what the recipe has no place for.

        Raises:
            UsageError: naming the first.
        """
        for name, value in self._flags.items():
            if value is not None:
                raise UsageError(f"init: --{name} {value}: a recipe for {purpose} has no use for it; leave it out")

    def _ask(self, question: str, default: str) -> str:
        from rich.console import Console
        from rich.prompt import Prompt

        prompt = Prompt(translate(question), console=Console(stderr=True, highlight=False), show_default=bool(default))
        prompt.prompt_suffix = " "
        try:
            answer = prompt(default=default)
        except EOFError:
            raise UsageError("init: the answers ended before all was answered; nothing was written") from None
        return answer.strip()


def _classification(questions: Questions) -> Sequence[Table]:
    from pretune.train.recipe import Recipe

    values = Recipe.model_validate({"task": "classification"})
    model = questions.answer("model", "Folder of the model to start from?", check=_folder("model"))
    train = questions.answer("train", "File with labelled texts (.csv, .tsv, .xlsx, .jsonl, .parquet)?", check=_columns)
    columns = questions.given("columns")
    names = _columns(train) if columns is None else [name.strip() for name in columns.split(",")]
    text, label = (_guess(names, known) for known in (_TEXTS, _LABELS))
    listed = f" ({', '.join(names)})" if names else ""
    text = questions.answer("text", f"Column of the texts?{listed}", text, _column_of("text", names))
    label = questions.answer("label", f"Column of the labels?{listed}", label, _column_of("label", names))
    second = questions.answer(
        "second", "Column of second texts, if these are pairs?", check=_column_of("second", names), needed=False
    )
    validation = questions.answer(
        "validation", "File with labelled texts for validation, if there is one?", check=_columns, needed=False
    )
    run = questions.answer("run", "Folder for the finished model?", "classifier")
    budget = "passes over the rows; without them, steps, rate and batch are chosen from the rows"
    return [
        (
            "",
            [
                Field("output", run, "the run directory"),
                Field("seed", values.seed, "of every random decision"),
                Field("budget.epochs", 10, budget, False),
            ],
        ),
        ("model", [Field("init", model, "folder of the model to start from")]),
        (
            "data",
            [
                Field("train", [train], "labelled files"),
                Field(
                    "validation",
                    [validation or "validation.csv"],
                    "without it, some of the training rows are held out",
                    bool(validation),
                ),
                Field("batch", values.data.batch or 32, "texts per step", False),
                Field("length", values.data.length, "tokens of a text at most; what is longer is cut"),
            ],
        ),
        (
            "data.columns",
            [
                Field("text", text),
                Field("label", label),
                Field("second", second or "second", "of pairs: the column of the second texts", bool(second)),
                *([] if columns is None else [Field("columns", names, "all columns, as the file has no header row")]),
            ],
        ),
        (
            "task.classification",
            [Field("class_weights", "balanced", "where some labels are much rarer than others", False)],
        ),
        ("optimizer", [Field("lr", values.optimizer.lr, "learning rate; try 2e-5 to 5e-4", False)]),
        ("evaluation", [Field("patience", 3, "stop after so many evaluations without improvement", False)]),
    ]


def _pretraining(questions: Questions, purpose: str) -> Sequence[Table]:
    from pretune.cli.variant_files import read_constant
    from pretune.find import variants
    from pretune.train.recipe import Recipe

    values = Recipe.model_validate({"objective": "mlm"})
    known = variants("objectives")
    if purpose == "pretraining":
        objective = questions.answer(
            "objective", "What is predicted (mlm, clm ...)?", "mlm", _one_of("objective", known)
        )
        family = questions.answer(
            "family",
            "Family of the model?",
            read_constant("objectives", objective, "default_family"),
            _one_of("family", variants("models")),
        )
        sizes = _sizes(family)
        size = questions.answer("size", f"Size ({', '.join(sizes)})?", "mini", _one_of("size", sizes))
        model = [Field("family", family, "pretune show families"), Field("size", size, ", ".join(sizes))]
        run = family
    else:
        init = questions.answer("model", "Folder of the model that goes on?", check=_folder("model"))
        model = [Field("init", init, "folder of the model that goes on")]
        objective = questions.answer(
            "objective", "What is predicted (mlm, clm ...)?", _objective_of(init), _one_of("objective", known)
        )
        run = "continued"
    stores = questions.answer("stores", "Token store (pretune prepare)?", "store", _store)
    run = questions.answer("run", "Folder for the finished model?", run)
    data = [
        Field("stores", [stores], "made by pretune prepare"),
        Field("batch", values.data.batch or 32, "sequences per step"),
        Field("length", values.data.length, "tokens of a sequence at most"),
    ]
    return [
        ("", [Field("output", run, "the run directory"), Field("seed", values.seed, "of every random decision")]),
        ("model", model),
        (f"objective.{objective}", [Field("weight", 1.0, f"pretune show {objective} lists its fields", False)]),
        ("data", data),
        ("budget", [Field("steps", values.budget.steps or 1000, "or epochs, tokens, minutes")]),
        ("optimizer", [Field("lr", values.optimizer.lr, "learning rate at the peak")]),
        ("checkpoint", [Field("minutes", values.checkpoint.minutes, "between two checkpoints at most")]),
    ]


def _columns(file: str) -> list[str]:
    """The columns of a labelled file.

    Raises:
        PretuneError: no such file, or one that cannot be read.
    """
    from pretune.text.readers.labelled import field_names

    return field_names(file)


def _guess(names: Sequence[str], known: Sequence[str]) -> str:
    """The column that is most likely meant; nothing where none has a usual name."""
    lower = {name.lower(): name for name in reversed(names)}
    return next((lower[name] for name in known if name in lower), "")


def _one_of(flag: str, names: Sequence[str]) -> Callable[[str], None]:
    from pretune.find import suggest

    def check(value: str) -> None:
        if names and value not in names:
            raise UsageError(f"init: {flag} {value!r} is none of those that there are; {suggest(value, list(names))}")

    return check


def _column_of(flag: str, names: Sequence[str]) -> Callable[[str], None]:
    from pretune.find import suggest

    def check(value: str) -> None:
        if names and value not in names:
            known = suggest(value, [name[:40] for name in names])
            raise UsageError(
                f"init: {flag} {value!r} is none of the columns; {known}; if the file has no header row, name its "
                "columns in order, as in --columns text,label"
            )

    return check


def _folder(what: str) -> Callable[[str], None]:
    def check(value: str) -> None:
        if not Path(value).exists():
            raise no_such_folder(value, what)

    return check


def _store(value: str) -> None:
    if not (Path(value) / "manifest.json").is_file():
        raise MissingInputError(f"{value}: no token store here; make one with `pretune prepare`")


def _sizes(family: str) -> list[str]:
    from pretune.cli.variant_files import read_variant

    return read_variant("models", family).sizes


def _objective_of(model: str) -> str:
    """What a model was trained to predict, as its files say; masks where they do not."""
    config = Path(model) / "config.json"
    try:
        architectures = json.loads(config.read_text(encoding="utf-8")).get("architectures") or [""]
    except (OSError, ValueError, AttributeError):  # a verb that reads the model says what is wrong with it
        return "mlm"
    return "clm" if str(architectures[0]).endswith(_CAUSAL) else "mlm"


def _check(content: str) -> None:
    """Reads a recipe back as a run would."""
    import tomllib

    from pretune import config
    from pretune.train.recipe import Recipe

    config.validate(Recipe, tomllib.loads(content), "init")
