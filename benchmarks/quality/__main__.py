"""`python -m benchmarks.quality`: compare objectives in equal time, on the texts below PRETUNE_DATA."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter
from cyclopts.validators import Number

from benchmarks.command import run_command

app = App(name="python -m benchmarks.quality", help=__doc__)


@app.default
def compare(
    *,
    minutes: Annotated[float, Parameter(validator=Number(gt=0))] = 10.0,
    seeds: Annotated[int, Parameter(validator=Number(gte=1))] = 3,
    precision: Literal["auto", "bf16", "fp32"] = "auto",
    languages: tuple[str, ...] = (),
    trials: tuple[str, ...] = (),
    folder: Path = Path("~/.cache/pretune/objectives"),
    output: Path = Path("benchmarks/results"),
) -> None:
    """Pretrain by each objective for the same time, and judge the weights by a probe and by fine-tuning.

    Args:
        minutes: of pretraining for each trial.
        seeds: of each score.
        precision: dtype of matmuls; auto uses bf16 where the hardware multiplies it.
        languages: en, zh; both by default.
        trials: such as mlm or rtd; all by default.
        folder: where texts, stores and weights are kept; a comparison goes on from what is there.
        output: folder of the file of results.
    """
    from pretune.runtime.allocator import tune_allocator

    tune_allocator()
    from benchmarks.limits import dtype_and_threads
    from benchmarks.measurements import machine
    from benchmarks.quality.compare import Comparison
    from benchmarks.quality.table import table, with_tables
    from benchmarks.quality.trials import LANGUAGES, TRIALS

    path = output / f"objectives-{machine()['capability'].lower()}.json"
    comparison = Comparison(folder.expanduser().absolute(), path, minutes, seeds, dtype_and_threads(precision, None)[0])
    chosen = [language for language in LANGUAGES if not languages or language.name in languages]
    wanted = [trial for trial in TRIALS if not trials or trial.name in trials]
    tree = json.loads(comparison.run(chosen, wanted).read_text(encoding="utf-8"))
    print(table(tree))
    page = Path("docs/which-objective.md")
    if output == Path("benchmarks/results") and page.is_file():
        trees = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(output.glob("objectives-*.json"))]
        page.write_text(with_tables(page.read_text(encoding="utf-8"), trees), encoding="utf-8")


@app.command
def vectors(
    *,
    minutes: Annotated[float, Parameter(validator=Number(gt=0))] = 20.0,
    steps: Annotated[int, Parameter(validator=Number(gte=1))] = 1000,
    seeds: Annotated[int, Parameter(validator=Number(gte=1))] = 3,
    precision: Literal["auto", "bf16", "fp32"] = "auto",
    folder: Path = Path("~/.cache/pretune/objectives"),
    output: Path = Path("benchmarks/results"),
) -> None:
    """SimCSE on a model of our own: Spearman's correlation on STS-B, before and after.

    Args:
        minutes: of pretraining.
        steps: of SimCSE, 64 sentences each.
        seeds: of SimCSE.
        precision: dtype of matmuls; auto uses bf16 where the hardware multiplies it.
        folder: where texts, stores and weights are kept; finished runs are kept.
        output: folder of the file of results.
    """
    from pretune.runtime.allocator import tune_allocator

    tune_allocator()
    from benchmarks.limits import dtype_and_threads
    from benchmarks.measurements import machine
    from benchmarks.quality.vectors import Vectors

    path = output / f"simcse-{machine()['capability'].lower()}.json"
    place = folder.expanduser().absolute()
    print(
        Vectors(place, path, minutes, steps, seeds, dtype_and_threads(precision, None)[0])
        .run()
        .read_text(encoding="utf-8")
    )


if __name__ == "__main__":
    run_command(app)
