"""Decoding by `generate` of `transformers`, as its documentation has it: SDPA, a cache that grows; greedy, or beams."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def setup(
    *,
    model: str,
    prompts: list[list[int]],
    new: int,
    beams: int = 1,
    precision: str = "bf16",
    guesses: int | None = None,
) -> Callable[[], dict[str, Any]]:
    """Load the model; a run reads the prompts and decodes.

    Args:
        model: a Hugging Face folder.
        prompts: token ids, of one length.
        new: tokens to decode after each.
        beams: of beam search; 1 decodes greedily.
        precision: bf16 or fp32.
        guesses: tokens a step that are guessed from what came before, at most; None for none.
    """
    network = _load(model, torch.bfloat16 if precision == "bf16" else torch.float32)
    ids = torch.tensor(prompts)
    mask = torch.ones_like(ids)
    options = {} if guesses is None else {"prompt_lookup_num_tokens": guesses}

    def run() -> dict[str, Any]:
        with torch.inference_mode():
            out = network.generate(
                ids,
                attention_mask=mask,
                max_new_tokens=new,
                do_sample=False,
                num_beams=beams,
                pad_token_id=0,
                **options,
            )
        written = out[:, ids.shape[1] :]
        return {"tokens": float(written.numel()), "chosen": written[0].tolist()}

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
