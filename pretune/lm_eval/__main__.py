"""Runs lm-eval with pretune's models: `python -m pretune.lm_eval run --model pretune --model_args path=FOLDER ...`."""

from __future__ import annotations

import sys


def main() -> None:
    """Registers the model and hands over to lm-eval's own command line."""
    try:
        from lm_eval.__main__ import cli_evaluate
    except ImportError:
        sys.exit("lm-eval is not installed: pip install 'lm-eval>=0.4.13'")
    from pretune.lm_eval import register

    register()
    cli_evaluate()


if __name__ == "__main__":
    main()
