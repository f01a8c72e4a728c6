"""Tiny bases of `transformers` in folders, adapters of `peft` on them with values at random, and outputs of both."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from torch import Tensor

from pretune.batch import ragged
from pretune.models.model import LanguageModel

transformers.logging.set_verbosity_error()
_BERT = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 40,
    "max_position_embeddings": 32,
}
_GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 40, "n_positions": 32}
_T5 = {
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 32,
    "num_layers": 2,
    "num_heads": 2,
    "vocab_size": 40,
    "decoder_start_token_id": 0,
}
BASES: Mapping[str, tuple[str, str, Mapping[str, Any]]] = {
    "bert": ("BertForSequenceClassification", "BertConfig", _BERT | {"num_labels": 3}),
    "bert_mlm": ("BertForMaskedLM", "BertConfig", _BERT),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", _GPT2),
    "llama": ("LlamaForCausalLM", "LlamaConfig", _BERT | {"num_key_value_heads": 1}),
    "t5": ("T5ForConditionalGeneration", "T5Config", _T5),
    "t5_odd": ("T5ForConditionalGeneration", "T5Config", _T5 | {"num_layers": 3}),
}
TASKS = {"bert": "SEQ_CLS", "bert_mlm": None, "gpt2": "CAUSAL_LM", "llama": "CAUSAL_LM", "t5": "SEQ_2_SEQ_LM"}
TASKS["t5_odd"] = TASKS["t5"]
ROWS = (torch.arange(4, 15), torch.arange(7, 10), torch.arange(20, 39))


def base(name: str, folder: Path) -> Path:
    """A folder of a base, with weights large enough to tell outputs apart."""
    model_class, config_class, fields = BASES[name]
    torch.manual_seed(0)
    model = getattr(transformers, model_class)(getattr(transformers, config_class)(**fields))
    randomise(model)
    model.save_pretrained(folder)
    return folder


@torch.no_grad()
def randomise(model: torch.nn.Module, only: Callable[[str], bool] = lambda name: True, std: float = 0.3) -> None:
    """Draws other values for parameters."""
    for name, parameter in model.named_parameters():
        if only(name):
            parameter.copy_(torch.randn_like(parameter) * std + (1 if "norm" in name.lower() else 0))


def open_base(name: str, folder: Path) -> Any:
    return getattr(transformers, BASES[name][0]).from_pretrained(folder).eval()


def adapted(
    name: str, folder: Path, config: peft.PeftConfig, output: Path, change: Callable[[Any], None] | None = None
) -> Any:
    """An adapter on a base, which is saved, all that it learns at random.

    Args:
        change: what is to be changed before.
    """
    torch.manual_seed(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(open_base(name, folder), config)
        learned = {each for each, parameter in model.named_parameters() if parameter.requires_grad}
        randomise(model, lambda each: each in learned)
        if change is not None:
            change(model)
        model.save_pretrained(output)
    return model.eval()


def reopened(name: str, folder: Path, adapter: Path) -> Any:
    """What peft makes of a folder."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", category=UserWarning)
        usual = ".*weight_tying|.*tie_word_embeddings|fan_in_fan_out"  # the last where both kinds of modules are tuned
        warnings.filterwarnings("ignore", message=usual, category=UserWarning)
        return peft.PeftModel.from_pretrained(open_base(name, folder), adapter).eval()


@torch.no_grad()
def theirs(name: str, model: Any, rows: tuple[Tensor, ...] = ROWS) -> list[Tensor]:
    """Logits of each sequence, one by one."""
    out = []
    for row in rows:
        extra = {"decoder_input_ids": row[None, :5].flip(1)} if name.startswith("t5") else {}
        out.append(model(input_ids=row[None], **extra).logits[0])
    return out


@torch.no_grad()
def ours(
    name: str, model: LanguageModel, rows: tuple[Tensor, ...] = ROWS, targets: Tensor | None = None
) -> list[Tensor]:
    """The same from one ragged batch.

    Args:
        targets: what an encoder-decoder has written, instead of what `theirs` takes.
    """
    model.eval()
    batch = ragged([row.numpy() for row in rows])
    if name.startswith("t5"):
        written = [row[:5].flip(0) for row in rows] if targets is None else [*targets]
        batch = replace(ragged([row.numpy() for row in written]), source=batch)
    hidden = model(batch).last_hidden_state
    head = model.heads[{"bert": "classification", "bert_mlm": "mlm"}.get(name, "clm")]
    if name == "bert":
        return list(head(hidden, batch.layout))
    return list(head(hidden).split(list(batch.layout.lengths)))
