"""From a folder to the first token of an answer, in fp32."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers


def setup(*, model: str, prompt: str) -> Callable[[], dict[str, Any]]:
    """The peer as it comes."""
    transformers.logging.set_verbosity_error()
    size = (Path(model) / "model.safetensors").stat().st_size

    def run() -> dict[str, Any]:
        network = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
        tokenizer = transformers.AutoTokenizer.from_pretrained(model)
        ids = tokenizer(prompt, return_tensors="pt")
        with torch.inference_mode():
            out = network.generate(**ids, max_new_tokens=1, do_sample=False, pad_token_id=0)
        return {"bytes": size, "answer": tokenizer.decode(out[0, -1:])}

    return run
