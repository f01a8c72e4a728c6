#!/usr/bin/env bash
# A repetition penalty of CTranslate2 spares the tokens of the prompt, which transformers punishes: other texts, also greedy.
#
# Guess, written first: a converted model, with `repetition_penalty` or `no_repeat_ngram_size` as its generation_config.json says,
# writes greedily the text that `generate` of transformers writes, as it does without them.
# Seen with ctranslate2 4.8.5 (CPU) and transformers 5.23.0, 40 prompts of 8 tokens and texts of 12: greedily all are the same,
# also with a minimal length and forbidden sequences, and 39 by beams. With a penalty of 1.5 it is 8, with `no_repeat_ngram_size`
# 1 it is 7: CTranslate2 counts what was generated ("previously generated tokens"), transformers the prompt too. Where the prompt
# is not counted there either (it is embedded, and passed as `inputs_embeds`), all 40 are the same again.
# Questions about a text, and summaries by a decoder, are mostly made of words of the prompt: the same value means another thing.
# For pretune: `generate` counts the prompt, as transformers does; docs/compress.md says it of exports.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 ctranslate2==4.8.5
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" -W ignore - 2>log <<'PY' || { cat log; exit 1; }
from typing import Any

import ctranslate2
import numpy as np
import tokenizers
import torch
import transformers
from ctranslate2.converters import TransformersConverter

ROWS, LENGTH = 64, 12
transformers.utils.logging.disable_progress_bar()
torch.manual_seed(0)
torch.set_num_threads(1)
sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": ROWS}
ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, **ids, max_position_embeddings=128, initializer_range=0.3)).eval()
words = tokenizers.Tokenizer(tokenizers.models.WordLevel({f"t{row}": row for row in range(ROWS)}, unk_token="t0"))
tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="t0", bos_token="t1", eos_token="t2")
model.save_pretrained("model")
tokenizer.save_pretrained("model")
TransformersConverter("model").convert("converted")
engine = ctranslate2.Generator("converted", compute_type="float32", intra_threads=1)
draw = np.random.default_rng(0)
PROMPTS = [draw.integers(3, ROWS, 8).tolist() for _ in range(40)]


def converted(prompt: list[int], **options: Any) -> list[int]:
    out = engine.generate_batch([[f"t{row}" for row in prompt]], max_length=LENGTH, include_prompt_in_result=False, end_token=["t2"], **options)
    return [int(token[1:]) for token in out[0].sequences[0]]


@torch.inference_mode()
def original(prompt: list[int], counted: bool, **options: Any) -> list[int]:
    tokens = torch.tensor([prompt])
    given = {"input_ids": tokens} if counted else {"inputs_embeds": model.get_input_embeddings()(tokens)}
    out = model.generate(**given, attention_mask=torch.ones_like(tokens), max_new_tokens=LENGTH, do_sample=False, **options)[0].tolist()
    out = out[len(prompt) :] if counted else out
    return out[: out.index(2)] if 2 in out else out


print(f"ctranslate2 {ctranslate2.__version__}, transformers {transformers.__version__}")
cases = [  # name, options of CTranslate2, options of transformers, whether the prompt matters
    ("greedy", {}, {}, False),
    ("beams", {"beam_size": 4}, {"num_beams": 4}, False),
    ("minimal length", {"min_length": LENGTH}, {"min_new_tokens": LENGTH}, False),
    ("forbidden", {"suppress_sequences": [["t5"], ["t9", "t10"]]}, {"bad_words_ids": [[5], [9, 10]]}, False),
    ("penalty 1.5", {"repetition_penalty": 1.5}, {"repetition_penalty": 1.5}, True),
    ("no token twice", {"no_repeat_ngram_size": 1}, {"no_repeat_ngram_size": 1}, True),
]
for name, theirs, ours, matters in cases:
    texts = [converted(prompt, **theirs) for prompt in PROMPTS]
    same = sum(text == original(prompt, True, **ours) for text, prompt in zip(texts, PROMPTS, strict=True))
    without = sum(text == original(prompt, False, **ours) for text, prompt in zip(texts, PROMPTS, strict=True))
    print(f"{name}: {same} of {len(PROMPTS)} texts are the same; {without} where transformers does not count the prompt")
    assert without >= len(PROMPTS) - 2
    assert same < len(PROMPTS) / 2 if matters else same == without
PY
