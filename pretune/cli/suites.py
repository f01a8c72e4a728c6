"""Verbs that score a model on several sets: evaluate clue, which fine-tunes it, and evaluate lm, which does not."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from cyclopts.validators import Number

from pretune.cli.answers import is_terminal
from pretune.cli.loading import OfBase, OfStep, load_model, written
from pretune.cli.outputs import check_output, suffix_of
from pretune.cli.session import DEFAULT, Args, Common
from pretune.errors import DataError, MissingInputError, PretuneError, UsageError

if TYPE_CHECKING:
    from pretune.evaluate.choice_scores import ChoiceScores

LM_USAGE = "pretune evaluate lm DATA... --model FOLDER [--flag VALUE]..."
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


def lm(
    *data: Path,
    model: Path,
    shots: Annotated[int, Parameter(validator=Number(gte=0))] = 0,
    limit: Annotated[int | None, Parameter(validator=Number(gte=1))] = None,
    delimiter: str | None = None,
    seed: int = 0,
    output: Path | None = None,
    as_json: Annotated[bool, Parameter(name="--json")] = False,
    step: OfStep = None,
    base: OfBase = None,
    session: Common = DEFAULT,
) -> None:
    """Score a language model by likelihood on sets of choices, sentence pairs and cloze texts, without training.

    A set is a file of records with query, choices and gold; context_options, continuation and gold; sentence_good and
    sentence_bad; or text, whose last word is asked for. Prints acc, acc_norm (for each character) and acc_bytes as
    lm-eval computes them. A masked model is scored by pseudo-likelihood. With --output it goes on where it stopped. A
    set that cannot be read is named at the end; the others are scored.

    Args:
        data: files, and folders with files of such records.
        model: folder of the model.
        shots: solved examples before each question, drawn from the set itself and not scored.
        limit: score the first so many records of each set.
        delimiter: what stands between a query and a choice; by default that of lm-eval's prompts, else a space.
        seed: of the examples.
        output: file to write the scores to, as JSON.
        as_json: print JSON on a terminal too.
    """
    _check_sets(data, output)
    loaded = load_model(model, session, "fp32", step=step, base=base)
    from pretune.evaluate.choice_scores import ChoiceScores, score_set
    from pretune.evaluate.choice_sets import find_files, read_set

    files = find_files(data)
    session.say(f"scoring {model} on {', '.join(file.stem for file in files)}")
    settings: dict[str, Any] = {"shots": shots, "limit": limit, "delimiter": delimiter, "seed": seed}
    settings |= {"precision": session.precision or "fp32", "step": step}
    result = ChoiceScores(str(model), settings)
    if output is not None:
        result = ChoiceScores.continued(str(model), settings, output)
    failed: list[PretuneError] = []
    for number, file in enumerate(files, 1):
        if file.stem in result.sets:
            session.say(f"{file.stem} ({number} of {len(files)}): scored before")
            continue
        try:
            chosen = read_set(file, delimiter, shots=shots, limit=limit, seed=seed)
            session.say(f"{chosen.name} ({number} of {len(files)}): {len(chosen.items):,} items")
            result.sets[chosen.name] = score_set(loaded._fused, loaded.tokenizer, chosen)
        except (DataError, UsageError, MissingInputError) as error:
            failed.append(error)
            continue
        if output is not None:
            result.write(output)
    if result.sets or not failed:
        _show_scores(result, as_json)
        if output is not None:
            written(session, output)
    if failed:
        raise _joined(failed, len(files))


def _check_sets(data: Sequence[Path], output: Path | None) -> None:
    """Refuses no sets, and an output that scores cannot be written to.

    Raises:
        UsageError: either.
    """
    if not data:
        raise UsageError("name a file or a folder of sets, such as piqa.jsonl")
    if output is not None and suffix_of(output) != ".json":
        raise UsageError(f"--output {output}: scores are written as JSON; expected a name that ends in .json")
    if output is not None and not output.is_file():  # one that is there is gone on with
        check_output(output)


def _joined(errors: Sequence[PretuneError], sets: int) -> PretuneError:
    """The errors of sets as one; a single set's stays as it is."""
    if sets == 1:
        return errors[0]
    kinds = {type(error) for error in errors}
    kind = kinds.pop() if len(kinds) == 1 else DataError
    return kind(f"{len(errors)} of {sets:,} sets not scored: {'; '.join(map(str, errors))}")


def _show_scores(result: ChoiceScores, as_json: bool) -> None:
    """Prints scores: a table on a terminal, JSON in a pipe."""
    if as_json or not is_terminal():
        print(json.dumps(asdict(result), ensure_ascii=False, indent=1))
    else:
        result.table().print(sys.stdout)
