"""Share of texts that are Python, 0 to 1: `parses` by this interpreter's grammar, `defines` if they hold a function.

Nothing is run. A text without a statement, such as a comment alone, does not count as Python, though it parses.
"""

from __future__ import annotations

import ast
import textwrap
import warnings
from collections.abc import Sequence
from typing import ClassVar

from pretune import config as configuration
from pretune.metrics.metric import MeanMetric, Scores, Texts, signature_of

_MAX_CHARACTERS = 100_000  # of a text; longer ones count as none


class Parses(MeanMetric):
    """Whether texts are Python."""

    main: ClassVar[str] = "parses"
    needs_references: ClassVar[bool] = False

    class Config(configuration.Config):
        """Nothing is to choose."""

    def score_text(self, hypothesis: str, references: Sequence[str], source: str) -> Scores:
        """1 or 0 each."""
        tree = parse_python(hypothesis)
        is_function = ast.FunctionDef | ast.AsyncFunctionDef
        defines = tree is not None and any(isinstance(node, is_function) for node in ast.walk(tree))
        return {"parses": float(tree is not None), "defines": float(defines)}

    def signature(self, texts: Texts) -> str:
        """The version of the grammar."""
        import sys

        return f"python:{sys.version_info.major}.{sys.version_info.minor}{signature_of(self.config)}"


def parse_python(text: str) -> ast.Module | None:
    """The syntax tree of a text with a statement; None if it is no Python."""
    if len(text) > _MAX_CHARACTERS:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            tree = ast.parse(textwrap.dedent(text))
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None
    return tree if tree.body else None
