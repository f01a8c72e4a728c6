"""Verbs that fine-tune and score a model on each set of a suite: evaluate clue."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from pretune.cli.answers import is_terminal
from pretune.cli.session import DEFAULT, Args, Common

CLUE_USAGE = "pretune evaluate clue FOLDER --model FOLDER [--flag VALUE]..."


def clue(
    folder: Path,
    /,
    *args: Args,
    model: Path,
    sets: tuple[str, ...] = (),
    seeds: Annotated[int, Parameter(validator=Number(gte=1))] = 3,
    output: Path = Path("clue"),
    keep_models: bool = False,
    as_json: Annotated[bool, Parameter(name="--json")] = False,
    session: Common = DEFAULT,
) -> None:
    """Fine-tune a model on each set of CLUE and FewCLUE in a folder, score it, and print a table with the spread.

    Sets are found by the names of their folders, in the files that CLUE publishes: afqmc, tnews, iflytek, cmnli, ocnli,
    cluewsc, csl, eprstmt, csldcp, bustm, chid, c3, cmrc, cluener. Where the test texts have public labels
    (`test_public.json`) they are scored, else those of dev. Started again, it goes on where it stopped.

    Args:
        folder: that holds the sets.
        args: [--field value]...: fields of the recipe of every run, such as --epochs 3, over what finetune chooses.
        model: folder of the model to fine-tune.
        sets: which of them, such as tnews,ocnli; all by default.
        seeds: runs of each set.
        output: folder of the results, clue.json, and of the runs.
        keep_models: keep the fine-tuned models of all runs.
        as_json: print JSON on a terminal too.
    """
    session.start()
    from pretune.cli.inputs import split_names
    from pretune.config import names_of, parse_overrides
    from pretune.train.recipe import Recipe

    fields = parse_overrides([*session.overrides(), *args], names_of(Recipe), {"task": {"classification": {}}})
    session.say(f"fine-tuning {model} on the sets of clue in {folder} -> {output}")
    from pretune.suites.running import SuiteRuns

    runs = SuiteRuns("clue", folder, model, output, seeds, split_names(sets), fields, keep_models)
    result = runs.run()
    if as_json or not is_terminal():
        print(json.dumps(result.to_json(), ensure_ascii=False, indent=1))
    else:
        result.table().print(sys.stdout)
    session.say(f"written: {output / 'clue.json'}")
