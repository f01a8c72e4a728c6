"""Greedy decoding by `generate` of `transformers`, as its documentation has it: bf16, SDPA, a cache that grows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def setup(*, model: str, prompts: list[list[int]], new: int) -> Callable[[], dict[str, float]]:
    """Load the model in bf16; a run reads the prompts and decodes.

    Args:
        model: a Hugging Face folder.
        prompts: token ids, of one length.
        new: tokens to decode after each.
    """
    network = _load(model, torch.bfloat16)
    ids = torch.tensor(prompts)
    mask = torch.ones_like(ids)

    def run() -> dict[str, float]:
        with torch.inference_mode():
            out = network.generate(ids, attention_mask=mask, max_new_tokens=new, do_sample=False, pad_token_id=0)
        return {"tokens": float(out[:, ids.shape[1] :].numel())}

    return run


def margin(*, model: str, prompt: list[int], chosen: list[int]) -> Callable[[], dict[str, float]]:
    """How far below the best, at most, the fp32 logit of a chosen token is, the chosen ones before it context."""
    network = _load(model, torch.float32)

    def run() -> dict[str, float]:
        with torch.inference_mode():
            logits = network(torch.tensor([[*prompt, *chosen]])).logits[0, len(prompt) - 1 : -1]
        own = logits.gather(1, torch.tensor(chosen)[:, None])[:, 0]
        return {"margin": float((logits.max(dim=1).values - own).max())}

    return run


def _load(folder: str, dtype: torch.dtype) -> Any:
    import transformers

    network: Any = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    network.eval()
    network.generation_config.eos_token_id = None  # nothing ends a text, on either side
    return network
