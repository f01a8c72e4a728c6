"""Exponent bits flipped in models that carry no digest: every answer is finite, or an error names its text."""

from __future__ import annotations

import random
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from drillkit import HERE
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(HERE))
from tinymodels import byte_tokenizer, save_bert, save_gpt2, word_tokenizer

import pretune
from pretune.errors import DataError, NonFiniteError
from pretune.model import Model
from pretune.runtime.finite import is_finite

pytestmark = pytest.mark.drill
TEXTS = ["the cat ate a hat", "a dog jumps over the lazy fox", "hat"]
FLIPS = 60
USES: dict[str, dict[str, Callable[[Model], object]]] = {
    "mlm": {
        "embed": lambda model: model.embed(TEXTS, normalize=True),
        "fill": lambda model: model.fill("the [MASK] ate"),
        "pseudo": lambda model: model.score(TEXTS),
    },
    "classes": {"predict": lambda model: model.predict(TEXTS), "embed": lambda model: model.embed(TEXTS)},
    "clm": {
        "generate": lambda model: [c.text for c in model.continuations(TEXTS, max_new_tokens=4)],
        "sample": lambda model: model.generate(TEXTS, max_new_tokens=4, temperature=1.0),
        "beams": lambda model: model.generate(TEXTS, max_new_tokens=4, beams=2),
        "score": lambda model: model.score(TEXTS),
    },
}


@pytest.mark.parametrize("name", USES)
def test_flipped_exponents(name: str, tmp_path: Path) -> None:
    if name == "clm":
        save_gpt2(tmp_path, byte_tokenizer())
    elif name == "mlm":
        save_bert(tmp_path, word_tokenizer())
    else:
        save_bert(tmp_path, word_tokenizer(), transformers.BertForSequenceClassification, ["bad", "good"])
    path, chance = tmp_path / "model.safetensors", random.Random(name)
    whole = load_file(path)
    refused, messages = 0, list[str]()
    for _ in range(FLIPS):
        tensors = {key: value.clone() for key, value in whole.items()}
        victim = tensors[chance.choice([key for key in tensors if tensors[key].is_floating_point()])].view(-1)
        bits, at = victim.view(torch.int32), chance.randrange(len(victim))
        bits[at] ^= 1 << chance.choice((28, 29, 30))
        save_file(tensors, path, {"format": "pt"})
        try:
            model = pretune.load(tmp_path, device="cpu", precision="fp32")
        except DataError:  # NaN or infinity in the weights
            refused += 1
            continue
        for verb, use in USES[name].items():
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("error", RuntimeWarning)
                    answer = use(model)
            except NonFiniteError as error:
                messages.append(str(error))
            else:
                assert is_finite(answer), (verb, answer)
    assert refused
    assert messages
    assert all("of 3" in text or "of 1" in text or "text:" in text for text in messages), messages
