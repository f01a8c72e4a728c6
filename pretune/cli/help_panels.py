"""Which help a command line wants, and what of cyclopts' panels it shows."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cyclopts.help import HelpEntry, HelpPanel

FLAGS, FULL = ("--help", "-h"), "--help-all"
COMMON = "Every verb"
"""The group of the flags of all verbs."""
shows_all: ContextVar[bool] = ContextVar("shows_all", default=False)
"""Whether help lists every flag and field."""

_METAVARS = {"STR": "TEXT", "STR...": "TEXT...", "INT": "INTEGER", "FLOAT": "NUMBER", "CHOICE": "A|B"}
_RARE = (
    *("--min-new-tokens", "--min-p", "--length-penalty", "--no-repeat-ngram-size", "--special-tokens"),
    *("--combine", "--word-vector", "--segmenter", "--dim", "--prompt-name"),
    *("--keep-special", "--markdown", "--input", "--delimiter", "--quotes", "--third"),
    *("--shot-count", "--shot-draws", "--choose", "--shot-model", "--shot-label", "--shot-seed"),
    *("--normalize", "--channel", "--chat"),
    *("--adapters", "--adapter", "--adapter-column"),
    *("--unit", "--query-prompt", "--passage-prompt"),
)
"""Flags that are explained on request alone."""
_PYTHON_DEFAULTS = ("()", "None", "True", "False")


def rewrite(args: Sequence[str]) -> list[str]:
    """Turns `help VERB` and `VERB --help-all` into `VERB --help`; `shows_all` says afterwards which it was."""
    words = list(args)
    if words[:1] == ["help"]:
        words = [*(word for word in words[1:] if word not in FLAGS), FLAGS[0]]
    shows_all.set(FULL in words)
    if FULL not in words:
        return words
    return [*(word for word in words if word not in (FULL, *FLAGS)), FLAGS[0]]


def wants_help(args: Sequence[str]) -> bool:
    """Whether help is shown in place of doing something."""
    return any(flag in args for flag in FLAGS)


def plain_panel(panel: HelpPanel) -> HelpPanel | None:
    """A panel without the marks of Python; None of one that short help leaves out."""
    if str(panel.title) == COMMON and not shows_all.get():
        return None
    entries = [entry for entry in panel.entries if shows_all.get() or not set(_RARE) & set(entry.positive_names)]
    return panel.copy(entries=[_plain_entry(entry) for entry in entries])


def _plain_entry(entry: HelpEntry) -> HelpEntry:
    default = None if entry.default in _PYTHON_DEFAULTS else entry.default
    metavar = entry.metavar and " ".join(_METAVARS.get(word, word) for word in entry.metavar.split())
    return entry.copy(default=default, metavar=metavar)
