"""Verbs that use any finished model: evaluate, predict, embed, export; those of language models are in `language`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cyclopts import App, Group

from pretune.cli import judging
from pretune.cli.chatting import chat
from pretune.cli.compressing import USAGE, compress
from pretune.cli.deltas import join, merge, register_delta
from pretune.cli.embedding import embed
from pretune.cli.evaluating import evaluate
from pretune.cli.export import export
from pretune.cli.language import fill, generate, score
from pretune.cli.predicting import predict
from pretune.cli.suites import CLUE_USAGE, LM_USAGE, clue, lm
from pretune.cli.verify import verify


def register(app: App) -> None:
    """Adds these verbs to the command line."""
    group = Group("Use", sort_key=3)
    evaluating = App(name="evaluate", group=group, sort_key=0, usage="pretune evaluate MODEL [DATA] [--flag VALUE]...")
    evaluating.default(evaluate)
    evaluating.command(clue, usage=CLUE_USAGE)
    evaluating.command(lm, usage=LM_USAGE)
    app.command(evaluating)
    verbs: Sequence[Callable[..., None]] = (predict, fill, generate, chat, score, embed, export, merge, join, verify)
    for position, verb in enumerate(verbs, 1):
        app.command(verb, group=group, sort_key=position)
    register_delta(app, group, len(verbs) + 1)
    app.command(compress, group=group, sort_key=len(verbs) + 2, usage=USAGE)
    judging.register(app, group, len(verbs) + 3)
