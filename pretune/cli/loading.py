"""Loads a model for a verb, and says where its answers are."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from pretune.errors import UsageError

if TYPE_CHECKING:
    from pretune.api import Model
    from pretune.cli.session import Session

OfStep = Annotated[
    str | None, Parameter(name="--step", help="of a run, finished or not: the weights of step best, last or N.")
]

OfBase = Annotated[
    Path | None,
    Parameter(name="--base", help="of what a tuning method learned: the model that was tuned, where it was moved."),
]


def load_model(
    path: Path,
    session: Session,
    precision: Literal["auto", "fp32"] = "auto",
    step: str | None = None,
    device: Literal["auto", "cpu"] = "auto",
    base: Path | None = None,
    adapters: Mapping[str, Path] | None = None,
) -> Model:
    """Loads a model, after the process is set up for it.

    Args:
        precision: the verb's own default.
        step: what `--step` says.
        device: the verb's own default.
        base: what `--base` says.
        adapters: folders of adapters, by their names.

    Raises:
        UsageError: `--step` says neither best, last nor a number.
    """
    chosen = parse_step(step)
    session.start()
    session.say(f"loading {path}")
    from pretune import api

    chosen_device, chosen_precision = session.device or device, session.precision or precision
    return api.load(path, device=chosen_device, precision=chosen_precision, step=chosen, base=base, adapters=adapters)


def parse_step(text: str | None) -> Literal["best", "last"] | int | None:
    """What `--step` says.

    Raises:
        UsageError: neither best, last nor a number.
    """
    if text is None:
        return None
    if text == "best":
        return "best"
    if text == "last":
        return "last"
    if not text.isascii() or not text.isdigit():
        raise UsageError(f"--step {text}: expected best, last or the number of a step that has a checkpoint")
    return int(text)


def digits_of(model: Model) -> int:
    """The significant digits that a model's probabilities have."""
    return model.digits


@contextmanager
def unknown_said_once(*models: Model | None) -> Iterator[None]:
    """Says at the end of the block, once for all its texts, what the tokenizers of some models did not know."""
    from pretune.text.tokenizer.unknown import say_unknown

    with ExitStack() as stack:
        for model in models:
            if model is not None:
                stack.enter_context(say_unknown(model.tokenizer))
        yield


def written(session: Session, output: Path | None) -> None:
    """Says which file was written, if any."""
    if output is not None:
        session.say(f"written: {output}")
    sys.stdout.flush()
