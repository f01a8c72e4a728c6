"""Verbs that train, and those that look at a run before and after: demo, pretrain, finetune, show, report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cyclopts import App, Group

from pretune.cli.session import DEFAULT, Args, Common, Session
from pretune.errors import UsageError

if TYPE_CHECKING:
    from pretune.train.recipe import Recipe

Kind = Literal["pretrain", "finetune"]


def register(app: App) -> None:
    """Hang these verbs on the command line."""
    app.command(demo, group=Group("Begin", sort_key=0))
    group = Group("Train", sort_key=2)
    verbs: Sequence[Callable[..., None]] = (show, pretrain, finetune, report)
    for place, verb in enumerate(verbs):
        app.command(verb, group=group, sort_key=place)


def demo(*, output: Path = Path("demo"), session: Common = DEFAULT) -> None:
    """Raw text to a fine-tuned BERT and a GPT-2 in minutes.

    Ends with the gain from pretraining in a table, fills and continuations, and a report to look at.

    Args:
        output: folder for everything that it makes.
    """
    session.start()
    from pretune import demo as driver

    driver.main(output, session.overrides())


def pretrain(*words: Args, session: Common = DEFAULT) -> None:
    """Pretrain a model from a token store.

    Goes on from any readable model with `--model.init PATH`. Started again, it goes on from its newest good
    checkpoint. Under `torchrun -m pretune pretrain ...` it runs on several GPUs or processes.

    Args:
        words: [RECIPE.toml] [--field value]...: a recipe, fields laid over it, or fields alone.
    """
    _train("pretrain", words, session)


def finetune(*words: Args, session: Common = DEFAULT) -> None:
    """Fine-tune a model on labelled files.

    The model is `--model.init PATH`; without it, the same network starts from random weights.

    Args:
        words: [RECIPE.toml] [--field value]...: a recipe, fields laid over it, or fields alone.
    """
    _train("finetune", words, session)


def show(*words: Args, session: Common = DEFAULT) -> None:
    """Show what a recipe would do, without doing it; or the families or objectives that there are.

    Prints modules with shapes, parameters, memory, and the arithmetic of steps, epochs and tokens.

    Args:
        words: [RECIPE.toml] [--field value]..., or `families`, or `objectives`.
    """
    from pretune.cli.catalogue import PAGES

    if len(words) == 1 and words[0] in PAGES:
        print(PAGES[words[0]](), end="")
        return
    session.start()  # before the recipe: a user's own optimizer imports torch
    recipe = read_recipe(words, session)
    from pretune.train.plan import make_plan

    print(make_plan(recipe).render())


def report(run: Path, /, *, session: Common = DEFAULT) -> None:
    """Write the report of a run, a page to look at.

    It holds curves, data account, configuration and samples.

    Args:
        run: directory of a pretraining or fine-tuning run.
    """
    session.say(f"reading {run}")
    from pretune.report.report import write_report

    print(write_report(run))


def read_recipe(words: tuple[str, ...], session: Session) -> Recipe:
    """The recipe that the words of a command line make: a file first, if there is one, then `--field value`."""
    from pretune import config
    from pretune.train.recipe import Recipe

    path = Path(words[0]) if words and not words[0].startswith("-") else None
    rest = words[1:] if path else words
    if path is None and not rest:
        raise UsageError("give a recipe (a TOML file) or fields (--data.stores STORE ...); --help lists all of them")
    return config.load(Recipe, path, [*session.overrides(), *rest])


def _train(kind: Kind, words: tuple[str, ...], session: Session) -> None:
    session.start()  # before the recipe: a user's own optimizer imports torch
    recipe = read_recipe(words, session)
    if kind == "pretrain" and recipe.task:
        raise UsageError(f"this recipe has a task ({', '.join(recipe.task)}); start it with: pretune finetune")
    if kind == "finetune" and recipe.objective and not recipe.task:
        raise UsageError(f"this recipe has objectives ({', '.join(recipe.objective)}); start it with: pretune pretrain")
    session.say(_intention(kind, recipe))
    from pretune import api
    from pretune.report.report import next_commands

    run: Callable[[Any], Any] = api.pretrain if kind == "pretrain" else api.finetune
    model = run(recipe)
    if recipe.track.report:
        session.say(f"report: {recipe.output}/report.html")
    session.say("next:\n" + "\n".join(f"  {line}" for line in next_commands(recipe.output, model.abilities)))


def _intention(kind: Kind, recipe: Recipe) -> str:
    """What a training verb is about to do, in a line."""
    model = recipe.model
    origin = model.init or f"{model.family or 'bert'} {model.size or 'mini'}, random weights"
    work = ", ".join([*recipe.task, *recipe.objective]) or "?"
    data = ", ".join([*recipe.data.train, *recipe.data.stores]) or "?"
    budget = f"{recipe.budget.total:g} {recipe.budget.unit}"
    verb = "pretraining" if kind == "pretrain" else "fine-tuning"
    return f"{verb} {origin} with {work} on {data} for {budget} -> {recipe.output}"
