"""Loads a model for a verb, and says where its answers are."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pretune.api import Model
    from pretune.cli.session import Session


def load_model(path: Path, session: Session, precision: Literal["auto", "fp32"] = "auto") -> Model:
    """Loads a model, after the process is set up for it.

    Args:
        precision: the verb's own default.
    """
    session.start()
    session.say(f"loading {path}")
    from pretune import api

    return api.load(path, device=session.device or "auto", precision=session.precision or precision)


def written(session: Session, output: Path | None) -> None:
    """Says which file was written, if any."""
    if output is not None:
        session.say(f"written: {output}")
    sys.stdout.flush()
