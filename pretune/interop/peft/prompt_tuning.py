"""Prompts in PEFT's files: vectors in front of every embedded sequence; of an encoder-decoder, of its source.

PEFT trains a second half of vectors in front of an encoder-decoder's target, and leaves it out itself when it generates
texts. It has no place here.
"""

from __future__ import annotations

from typing import Literal

import torch

from pretune.errors import DataError
from pretune.interop.adapter_files import CONFIG
from pretune.interop.peft.contents import Contents, Found
from pretune.interop.peft.modules import ModuleTable
from pretune.models.model import LanguageModel
from pretune.nn.heads import SequenceHead
from pretune.nn.prompt import LearnedPrompt
from pretune.tune import prompt

TABLE = "prompt_embeddings"
PARTS = (TABLE,)


@torch.no_grad()
def read(model: LanguageModel, contents: Contents, by_module: Found) -> None:
    """Puts the vectors of a folder in front of every sequence."""
    table = by_module[""][TABLE]
    length = int(contents.number("num_virtual_tokens", least=1))
    sides = int(contents.number("num_transformer_submodules", least=1, default=1))
    width = model.embedding.word.width
    if list(table.shape) != [length * sides, width]:
        raise contents.damaged(f"{TABLE!r} has shape {list(table.shape)}, expected {[length * sides, width]}")
    if sides > 1 and model.loaded is not None:
        model.loaded.notes.append(
            f"{contents.where}/{CONFIG}: field 'num_transformer_submodules' = {sides}: the {length} vectors for the "
            "decoder are left out, as peft leaves them out when it generates"
        )
    first_row: Literal["prompt", "text"] = "prompt" if _reads_first(model) else "text"
    prompt.apply(model, prompt.Config(length=length, initial="normal", first_row=first_row))
    _brick(model).vectors.copy_(table[:length])


def _reads_first(model: LanguageModel) -> bool:
    """Whether a head reads the first row as that of the sequence, which with peft is that of the first vector."""
    return any(isinstance(head, SequenceHead) and head.pool_position == "first" for head in model.heads.values())


def _brick(model: LanguageModel) -> LearnedPrompt:
    (brick,) = (module for module in model.modules() if isinstance(module, LearnedPrompt))
    return brick


@torch.no_grad()
def write(model: LanguageModel, table: ModuleTable) -> Contents | None:
    """What the files say of a model's prompt; None where it has none."""
    if not any(isinstance(module, LearnedPrompt) for module in model.modules()):
        return None
    brick = _brick(model)
    if not brick.leads and _reads_first(model):
        raise DataError(
            "format peft: the heads of this model read the first token of the text, and with peft the first vector of "
            "the prompt; train with tune.prompt.first_row = 'prompt' for a prompt that peft reads"
        )
    fields = {
        "peft_type": "PROMPT_TUNING",
        "num_virtual_tokens": brick.length,
        "token_dim": brick.vectors.shape[1],
        "num_transformer_submodules": 1,
        "num_attention_heads": 1,
        "num_layers": len(model.stack.order),
        "prompt_tuning_init": "RANDOM",
    }
    return Contents(model.family, fields, {TABLE: brick.vectors.detach()}, "base_model.")
