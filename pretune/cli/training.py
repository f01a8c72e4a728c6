"""Verbs that train, and that show a run before and after: demo, pretrain, finetune, show, report."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cyclopts import App, Group

from pretune.cli.init import init
from pretune.cli.runs import runs
from pretune.cli.session import DEFAULT, Args, Common, Session
from pretune.errors import UsageError

if TYPE_CHECKING:
    from pretune.train.recipe import Recipe

Verb = Literal["pretrain", "finetune"]


_USAGE = {
    "show": "pretune show [NAME | RECIPE.toml] [--flag VALUE]...",
    "pretrain": "pretune pretrain [RECIPE.toml] [--flag VALUE]...",
    "finetune": "pretune finetune [RECIPE.toml] [--flag VALUE]...",
}


def register(app: App) -> None:
    """Adds these verbs to the command line."""
    begin = Group("Begin", sort_key=0)
    app.command(demo, group=begin, sort_key=0)
    app.command(init, group=begin, sort_key=1)
    group = Group("Train", sort_key=2)
    verbs: Sequence[Callable[..., None]] = (show, pretrain, finetune, runs, report)
    for position, verb in enumerate(verbs):
        app.command(verb, group=group, sort_key=position, usage=_USAGE.get(verb.__name__))


def demo(*, output: Path = Path("demo"), session: Common = DEFAULT) -> None:
    """Go from raw text to a fine-tuned BERT and a GPT-2 in minutes.

    Ends with a table of the gain from pretraining, filled masks, continuations, and a report of each run.

    Args:
        output: folder for everything that the demo produces.
    """
    session.start()
    from pretune import demo as driver

    driver.main(output, session.overrides())


def pretrain(*args: Args, session: Common = DEFAULT) -> None:
    """Pretrain a model from a token store.

    Continues from any readable model with `--model FOLDER`. Started again, it resumes from its newest intact
    checkpoint. Under `torchrun -m pretune pretrain ...` it runs on several GPUs or processes.

    Args:
        args: [RECIPE.toml] [--field value]...: a recipe, fields that override it, or fields alone.
    """
    _train("pretrain", args, session)


def finetune(*args: Args, session: Common = DEFAULT) -> None:
    """Fine-tune a model on labelled files.

    The model is `--model FOLDER`; without it, training starts from random weights.

    Args:
        args: [RECIPE.toml] [--field value]...: a recipe, fields that override it, or fields alone.
    """
    _train("finetune", args, session)


def show(*args: Args, markdown: bool = False, session: Common = DEFAULT) -> None:
    """Show what there is to choose from, one choice with its fields, or what a recipe would do, without running it.

    Lists: `tasks`, `objectives`, `families`, `tuning`, `optimizers`, `schedules`; one of them: `mlm`, `bert`,
    `classification`. `compatibility` says what becomes of the fields of foreign files. Of a recipe it prints modules
    with shapes, parameters, memory, and the numbers of steps, epochs and tokens.

    Args:
        args: a list, a name, or [RECIPE.toml] [--field value]...
        markdown: print families, objectives or tasks as a page of the documentation.
    """
    if not args or (len(args) == 1 and not args[0].startswith("-") and not Path(args[0]).is_file()):
        print(_show_name(args[0] if args else "", markdown))
        return
    session.start()  # before the recipe: a user's own optimizer imports torch
    recipe = read_recipe(args, session)
    if recipe.model.is_tfidf:
        raise UsageError("--model tfidf trains no network, so that there is no plan to show; run it with finetune")
    session.say("planning the run; nothing is trained")
    from pretune.train.plan import make_plan

    print(make_plan(recipe).render())


def _show_name(name: str, markdown: bool) -> str:
    """Renders a list, one of its variants, or a page.

    Raises:
        UsageError: there is nothing of this name.
    """
    if markdown or name == "compatibility":
        from pretune.cli.catalogue import PAGES

        if name not in PAGES:
            raise UsageError(f"show {name}: no page of this name; pages: {', '.join(PAGES)}")
        return PAGES[name]().removesuffix("\n")
    from pretune.cli.lists import LISTS, find_lists, render_list, render_overview, render_variant, unknown_name

    if not name:
        return render_overview()
    if name in LISTS:
        return render_list(name)
    if not find_lists(name):
        raise unknown_name(name)
    return render_variant(name)


def report(run: Path, /, *others: Path, output: Path | None = None, session: Common = DEFAULT) -> None:
    """Write the report of a run as an HTML page, or compare several runs on one page.

    The page of one run has its curves, scores, mistakes, data statistics and configuration. A page of several has their
    numbers side by side, the fields in which their recipes differ, and their curves together.

    Args:
        run: directory of a pretraining or fine-tuning run.
        others: directories of further runs, to be compared with it.
        output: the page; report.html in the directory of a single run, and comparison.html here for several.
    """
    listed = ", ".join(map(str, [run, *others]))
    session.say(f"reading {listed}")
    from pretune.report.compression import is_compression, write_page

    if not others and is_compression(run):
        print(write_page(run, output))
        return
    from pretune.report.compare import write_comparison
    from pretune.report.report import write_report

    print(write_comparison([run, *others], output) if others else write_report(run, output))


def read_recipe(args: tuple[str, ...], session: Session) -> Recipe:
    """Reads a recipe from the arguments of a command line: a file first, if there is one, then `--field value`."""
    from pretune import config
    from pretune.train.recipe import Recipe

    path = Path(args[0]) if args and not args[0].startswith("-") else None
    rest = args[1:] if path else args
    if path is None and not rest:
        raise UsageError("name a recipe (a TOML file) or fields, such as --model MODEL --train FILE; see --help")
    if path is not None and path.suffix != ".toml" and path.exists():
        flag = "--model" if path.is_dir() else "--train"
        raise UsageError(f"{path}: is no recipe, which is a .toml file; as the value of a flag: {flag} {path}")
    return config.load(Recipe, path, [*session.overrides(), *rest])


def _train(verb: Verb, args: tuple[str, ...], session: Session) -> None:
    session.start()  # before the recipe: a user's own optimizer imports torch
    recipe = read_recipe(args, session)
    if verb == "pretrain" and recipe.task:
        raise UsageError(f"this recipe has a task ({', '.join(recipe.task)}); run it with: pretune finetune")
    if verb == "finetune" and recipe.objective and not recipe.task:
        raise UsageError(f"this recipe has objectives ({', '.join(recipe.objective)}); run it with: pretune pretrain")
    if verb == "finetune" and not recipe.task:
        raise UsageError("recipe: field 'task' is missing; name one, such as --task classification")
    if verb == "pretrain" and not recipe.objective:
        raise UsageError("recipe: field 'objective' is missing; name one, such as --objective mlm")
    session.say(_intention(verb, recipe))
    from pretune import api
    from pretune.interop.run_names import FACTS
    from pretune.report.next_commands import adapters_base, named_tasks, next_commands, run_abilities
    from pretune.seals import read_facts
    from pretune.train.repeats import asks_for_several

    if asks_for_several(recipe):
        spread = api.cross_validate(recipe)
        if spread.mean:
            session.say(spread.table().text(width=shutil.get_terminal_size().columns))
        else:
            session.say("warning: there are no scores to compare, as nothing was held out for validation")
        session.say(f"written: {recipe.output}/spread.json")
        session.say(
            "next: the same command with another --output and neither --seeds nor --folds trains the model for use"
        )
        return
    run: Callable[[Any], Any] = api.pretrain if verb == "pretrain" else api.finetune
    model = run(recipe)
    if recipe.model.is_tfidf:
        text = '--pair "a text" "a second text"' if recipe.data.columns.second else '"a text"'
        session.say(f"next:\n  pretune predict {shlex.quote(recipe.output)} {text}")
        return
    if recipe.track.report:
        session.say(f"report: {recipe.output}/report.html")
    vocabulary = model.tokenizer.vocabulary
    mask = "[MASK]" if vocabulary.mask is None else model.tokenizer.token(vocabulary.mask)
    is_paired, facts = recipe.data.columns.second is not None, read_facts(Path(recipe.output) / FACTS)
    language = str(facts.get("language", "en"))
    tasks = named_tasks(facts)
    lines = next_commands(
        recipe.output,
        run_abilities(model.abilities, facts),
        mask,
        is_paired=is_paired,
        language=language,
        tasks=tasks,
        records=facts.get("records"),
        base=adapters_base(facts),
    )
    session.say("next:\n" + "\n".join(f"  {line}" for line in lines))


def _intention(verb: Verb, recipe: Recipe) -> str:
    """Returns in a line what a training verb is about to do."""
    model = recipe.model
    if model.is_tfidf:
        return f"fitting logistic regression on TF-IDF of {', '.join(recipe.data.train)} -> {recipe.output}"
    origin = model.init or f"{model.family or 'bert'} {model.size or 'mini'}, random weights"
    targets = ", ".join([*recipe.task, *recipe.objective])
    data = ", ".join([*recipe.data.train, *recipe.data.stores]) or "no data yet"
    action = "pretraining" if verb == "pretrain" else "fine-tuning"
    if recipe.automatic:
        return f"{action} {origin} with {targets} on {data}, settings chosen from the data -> {recipe.output}"
    return f"{action} {origin} with {targets} on {data} for {recipe.budget} -> {recipe.output}"
