"""pretune takes a language model through its whole life: text, tokenizer, pretraining, fine-tuning, use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pretune.api import finetune, load, pretrain

__version__ = "0.1.0"
__all__ = ["__version__", "finetune", "load", "pretrain"]


def __getattr__(name: str) -> Any:
    """Hand on `load`, `pretrain` and `finetune` from `pretune.api`, which imports torch, on first use."""
    if name in __all__:
        from pretune import api

        return getattr(api, name)
    raise AttributeError(f"module 'pretune' has no attribute {name!r}")


def __dir__() -> list[str]:
    """List what is handed on beside what is here."""
    return sorted({*globals(), *__all__})
