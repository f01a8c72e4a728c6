"""pretune's models in EleutherAI's lm-evaluation-harness: `lm-eval run --model pretune --model_args path=FOLDER`.

lm-eval looks for models in a table of its own and nowhere else. What a program installs under the entry point
`torch.backends` is called when torch has been imported, which lm-eval does before it looks: `register` then adds one
name to that table, and does nothing in any other program. `python -m pretune.lm_eval run ...` does without it.
"""

from __future__ import annotations

import sys

NAME = "pretune"
_CLASS = "pretune.lm_eval.harness_model:HarnessModel"


def register() -> None:
    """Adds the model to lm-eval's table where lm-eval is running; imports nothing otherwise."""
    if "lm_eval" not in sys.modules:
        return
    try:
        from lm_eval.api.registry import model_registry
    except ImportError:  # an lm-eval that keeps its table elsewhere; torch takes an error here for one of its own
        return
    if NAME not in model_registry:
        model_registry.register(NAME, target=_CLASS)
