"""Prefixes and prompts give what those of `peft` do: the same rows, the same positions, padded or ragged."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import peft
import peftkit
import pytest
import torch
from torch import Tensor

from pretune.batch import Batch
from pretune.interop.huggingface import load_model
from pretune.models.model import LanguageModel
from pretune.nn.prefix import LearnedPrefix
from pretune.nn.prompt import LearnedPrompt
from pretune.tune.method import find_method

LENGTH = 4
SHORT = tuple(row[:11] for row in peftkit.ROWS)  # behind a prefix fewer positions are left


def theirs(name: str, folder: Path, config: peft.PeftConfig) -> tuple[Any, Tensor]:
    """A model of peft, in training mode of its adapter, and what it learns."""
    torch.manual_seed(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(peftkit.open_base(name, folder), config)
    learned = dict(model.named_parameters())["prompt_encoder.default.embedding.weight"]
    with torch.no_grad():
        learned.normal_(0, 0.5)
    return model.eval(), learned.detach()


def ours(folder: Path, method: str, **settings: Any) -> LanguageModel:
    return find_method(method, {"length": LENGTH, **settings}).apply(load_model(folder)).eval()


def layer_entries(rows: Tensor, heads: int) -> Tensor:
    """What peft has for keys and values of each layer. Shape: (P, L * 2 * width) -> (2 * L, P, heads, D)."""
    layers = 4  # keys and values of two layers
    return rows.view(LENGTH, layers, heads, -1).transpose(0, 1)


@torch.no_grad()
@pytest.mark.parametrize("name", ["bert", "gpt2", "llama"])
def test_a_prefix(name: str, tmp_path: Path) -> None:
    peftkit.base(name, tmp_path)
    task = {"bert": "SEQ_CLS"}.get(name, "CAUSAL_LM")
    model, rows = theirs(name, tmp_path, peft.PrefixTuningConfig(task_type=task, num_virtual_tokens=LENGTH))
    tuned = ours(tmp_path, "prefix")
    bricks = [module for module in tuned.modules() if isinstance(module, LearnedPrefix)]
    entries = layer_entries(rows, bricks[0].key.shape[1])
    for layer, brick in enumerate(bricks):
        brick.key.copy_(entries[2 * layer])
        brick.value.copy_(entries[2 * layer + 1])
    for want, got in zip(peftkit.theirs(name, model, SHORT), peftkit.ours(name, tuned, SHORT), strict=True):
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_prefix_of_an_encoder_decoder(tmp_path: Path) -> None:
    """peft reads the rows as if each layer had four: layer n has those of entries 4n and 4n + 1, from the first again.

    So of two layers both have the rows of the first, and those of the second are never used.
    """
    peftkit.base("t5", tmp_path)
    config = peft.PrefixTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=LENGTH)
    model, rows = theirs("t5", tmp_path, config)
    tuned = ours(tmp_path, "prefix", places=("decoder.attention",))
    entries = layer_entries(rows, 2)
    bricks = [module for module in tuned.modules() if isinstance(module, LearnedPrefix)]
    assert len(bricks) == 2
    for layer, brick in enumerate(bricks):
        brick.key.copy_(entries[4 * layer % 4])
        brick.value.copy_(entries[(4 * layer + 1) % 4])
    for want, got in zip(peftkit.theirs("t5", model, SHORT), peftkit.ours("t5", tuned, SHORT), strict=True):
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "t5"])
def test_a_prompt(name: str, tmp_path: Path) -> None:
    """In front of T5's source; BERT's pooler reads the first vector there."""
    peftkit.base(name, tmp_path)
    task = {"bert": "SEQ_CLS", "t5": "SEQ_2_SEQ_LM"}.get(name, "CAUSAL_LM")
    model, vectors = theirs(name, tmp_path, peft.PromptTuningConfig(task_type=task, num_virtual_tokens=LENGTH))
    tuned = ours(tmp_path, "prompt", first_row="prompt" if name == "bert" else "text")
    (brick,) = (module for module in tuned.modules() if isinstance(module, LearnedPrompt))
    brick.vectors.copy_(vectors[:LENGTH])
    for want, got in zip(peftkit.theirs(name, model, SHORT), peftkit.ours(name, tuned, SHORT), strict=True):
        torch.testing.assert_close(got, want[-len(got) :] if got.dim() > 1 else want, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize("method", ["prefix", "prompt"])
def test_the_texts_that_they_write(name: str, method: str, tmp_path: Path) -> None:
    """Greedy tokens, with their cache and with ours."""
    peftkit.base(name, tmp_path)
    config_class = peft.PrefixTuningConfig if method == "prefix" else peft.PromptTuningConfig
    model, rows = theirs(name, tmp_path, config_class(task_type="CAUSAL_LM", num_virtual_tokens=LENGTH))
    tuned = ours(tmp_path, method)
    if method == "prompt":
        next(module for module in tuned.modules() if isinstance(module, LearnedPrompt)).vectors.copy_(rows)
    else:
        bricks = [module for module in tuned.modules() if isinstance(module, LearnedPrefix)]
        entries = layer_entries(rows, bricks[0].key.shape[1])
        for layer, brick in enumerate(bricks):
            brick.key.copy_(entries[2 * layer])
            brick.value.copy_(entries[2 * layer + 1])
    prompt = peftkit.ROWS[0][None, :5]
    want = model.generate(
        input_ids=prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=8, min_new_tokens=8, do_sample=False
    )[0, -8:]
    cache, tokens, written = tuned.new_cache(1), prompt[0], []
    for _ in range(8):
        hidden = tuned(Batch(tokens, cache.layout([len(tokens)])), cache=cache).last_hidden_state
        tokens = tuned.heads["clm"](hidden[-1:]).argmax(dim=1)
        written.append(int(tokens))
    assert written == want.tolist()
