"""Verbs that make models of models: merge, join, delta add, delta average, delta subtract."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Group, Parameter

from pretune.cli.loading import OfBase, OfStep, parse_step
from pretune.cli.session import DEFAULT, Common, Session
from pretune.wording import counted, listed

Operation = Literal["add", "average", "subtract"]
HeadChoice = Literal["sum", "first", "average"]
Weights = Annotated[str | None, Parameter(name="--weights", help="a number for each folder, such as 1,0.5.")]


def merge(model: Path, /, *, output: Path, step: OfStep = None, base: OfBase = None, session: Common = DEFAULT) -> None:
    """Merge what a tuning method learned into its base, as a plain model that everybody reads.

    The merged model's outputs are compared with those of the tuned one before anything is written.

    Args:
        model: folder of a tuned run, or of what its method learned.
        output: folder to write: a new or an empty one.
    """
    chosen = parse_step(step)
    session.start()
    session.say(f"merging {model} -> {output}")
    from pretune import api

    result = api.merge(model, output, step=chosen, base=base)
    session.say(f"done: {counted(result.weights, 'weight')}; outputs differ by {result.difference:.1e} of their size")
    if result.widened:
        widened = counted(result.widened, "rounded matrix", "rounded matrices")
        session.say(f"{widened} of the base became plain ones in fp32")
    session.say(f"next: pretune export {shlex.quote(str(output))} FOLDER")


def join(encoder: Path, decoder: Path, /, *, output: Path, seed: int = 0, session: Common = DEFAULT) -> None:
    """Join two encoders: one reads, the other writes, as an encoder-decoder that fine-tuning then teaches to write.

    Attention from the second to the first is new, so that the model must be trained before it is used.

    Args:
        encoder: folder of the BERT that reads.
        decoder: folder of the BERT that writes; it may be the same one.
        output: folder to write: a new or an empty one.
        seed: of the weights that neither model has.
    """
    session.start()
    session.say(f"joining {encoder} (reads) and {decoder} (writes) -> {output}")
    from pretune import api

    result = api.join(encoder, decoder, output, seed=seed)
    session.say(
        f"done: {counted(result.weights, 'weight')}, of which {result.new:,} begin at random ({listed(result.parts)}): "
        "the model writes nothing of use before it is fine-tuned"
    )
    session.say(f"next: pretune finetune --model {shlex.quote(str(output))} --task generation --train FILE")


def register_delta(app: App, group: Group, position: int) -> None:
    """Adds `delta add`, `delta average` and `delta subtract`."""
    summary = "Add, average and subtract what a tuning method learned in several runs."
    delta = App(name="delta", help=summary, group=group, sort_key=position)
    for verb in (add, average, subtract):
        delta.command(verb)
    app.command(delta)


def add(
    *folders: Path,
    output: Path,
    weights: Weights = None,
    heads: HeadChoice = "sum",
    base: OfBase = None,
    session: Common = DEFAULT,
) -> None:
    """Add what a tuning method learned in several runs on one base.

    The result changes the base's matrices by the sum of the changes. Of LoRA and AdaLoRA it has the sum of the ranks.

    Args:
        folders: tuned runs, or folders of what their methods learned; the result has the heads and the tokenizer of
            the first.
        output: folder to write: a new or an empty one.
        heads: sum adds heads that the base had too; first takes those of the first folder; average their mean.
    """
    _combine("add", folders, output, weights, heads, base, session)


def average(
    *folders: Path,
    output: Path,
    weights: Weights = None,
    heads: HeadChoice = "average",
    base: OfBase = None,
    session: Common = DEFAULT,
) -> None:
    """Average what a tuning method learned in several runs on one base.

    Args:
        folders: tuned runs, or folders of what their methods learned; the result has the tokenizer of the first.
        output: folder to write: a new or an empty one.
        heads: sum adds heads that the base had too; first takes those of the first folder; average their mean.
    """
    _combine("average", folders, output, weights, heads, base, session)


def subtract(
    *folders: Path,
    output: Path,
    weights: Weights = None,
    heads: HeadChoice = "first",
    base: OfBase = None,
    session: Common = DEFAULT,
) -> None:
    """Subtract what a tuning method learned in runs from what it learned in the first, all on one base.

    Args:
        folders: tuned runs, or folders of what their methods learned; the result has the heads and the tokenizer of
            the first.
        output: folder to write: a new or an empty one.
        heads: sum subtracts heads that the base had too; first takes those of the first folder; average their mean.
    """
    _combine("subtract", folders, output, weights, heads, base, session)


def _combine(
    operation: Operation,
    folders: Sequence[Path],
    output: Path,
    weights: str | None,
    heads: HeadChoice,
    base: Path | None,
    session: Session,
) -> None:
    session.start()
    session.say(f"{operation}: {', '.join(map(str, folders))} -> {output}")
    from pretune import api

    for note in api.combine(operation, folders, output, weights=weights, heads=heads, base=base):
        session.say(note)
    session.say(f"done; next: pretune merge {shlex.quote(str(output))} --output FOLDER")
