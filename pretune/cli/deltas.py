"""Verbs of what tuning methods learned: merge."""

from __future__ import annotations

import shlex
from pathlib import Path

from pretune.cli.loading import OfBase, OfStep, parse_step
from pretune.cli.session import DEFAULT, Common
from pretune.wording import counted


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
    session.say(f"next: pretune export {shlex.quote(str(output))} FOLDER")
