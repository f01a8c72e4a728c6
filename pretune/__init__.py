"""pretune takes a language model through its whole life: text, tokenizer, pretraining, fine-tuning, use.

    import pretune

    model = pretune.load("a-folder-in-the-hugging-face-layout")
    model.predict("a text"); model.fill("a [MASK]"); model.embed("a text"); model.generate("a prompt")
    model.evaluate("test.csv"); model.export("out")

`pretrain` and `finetune` train a model and give it back in the same form; `cross_validate` makes several runs and gives
their scores with their spread. `merge` writes a tuned model as a plain one; `compress_model` makes one smaller or
faster; `combine` adds what several runs learned; `join` makes an encoder-decoder of two encoders.
`index` makes an index of documents and `open_index` opens it: it searches, and answers questions.
`judge` scores texts. `check_labels` lists labels that are probably wrong, `choose_to_label` texts to label next.
`pretune.sklearn` has estimators of scikit-learn.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pretune.api import (
        Evaluation,
        Model,
        Prediction,
        combine,
        compress_model,
        cross_validate,
        finetune,
        join,
        load,
        merge,
        pretrain,
    )
    from pretune.judging import judge
    from pretune.labelling import check_labels, choose_to_label
    from pretune.searching import index, open_index

__version__ = "0.1.0"
__all__ = [
    "Evaluation",
    "Model",
    "Prediction",
    "__version__",
    "check_labels",
    "choose_to_label",
    "combine",
    "compress_model",
    "cross_validate",
    "finetune",
    "index",
    "join",
    "judge",
    "load",
    "merge",
    "open_index",
    "pretrain",
]


_MODULES = {
    "check_labels": "labelling",
    "choose_to_label": "labelling",
    "index": "searching",
    "judge": "judging",
    "open_index": "searching",
}
"""Where names stand that are not of `pretune.api`."""


def __getattr__(name: str) -> Any:
    """Hand on what these modules have, which import torch, on first use."""
    if name in __all__:
        return getattr(import_module(f"pretune.{_MODULES.get(name, 'api')}"), name)
    if name == "sklearn":
        return import_module("pretune.sklearn")
    raise AttributeError(f"module 'pretune' has no attribute {name!r}")


def __dir__() -> list[str]:
    """List what users call, for completion and `help`."""
    return sorted([*__all__, "__doc__", "__file__", "__name__", "__path__"])
