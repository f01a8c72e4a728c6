#!/usr/bin/env bash
# CTranslate2 converts a GPT-2 only where its tokenizer has as many tokens as the model has rows.
#
# Guess, written first: a folder that transformers wrote and generates from is converted, whether its rows were padded to a
# multiple of 64 (`resize_token_embeddings(..., pad_to_multiple_of=64)`) or its tokenizer got a padding token that the model
# has no row for, which GPT-2 lacks and every recipe for batches adds.
# Seen with ctranslate2 4.8.5 and transformers 5.23.0 (CPU): both are refused for GPT-2, "Vocabulary has size 40 but the model
# expected a vocabulary of size 64", without a remedy. Of a Llama the same folders are converted: its loader names the rows
# without a token and drops tokens without a row.
# For pretune: an export names each row of the vocabulary, whatever the tokenizer has.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 ctranslate2==4.8.5
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" -W ignore - <<'PY'
import tempfile

import ctranslate2
import tokenizers
import torch
import transformers
from ctranslate2.converters import TransformersConverter

TOKENS = 40


def folder_of(family: str, case: str) -> str:
    names = {f"t{row}": row for row in range(TOKENS)}
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(names, unk_token="t0"))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="t0", bos_token="t1", eos_token="t2")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {} if family == "gpt2" else {"intermediate_size": 32}
    config = transformers.AutoConfig.for_model(family, vocab_size=TOKENS, bos_token_id=1, eos_token_id=2, **sizes)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    if case == "padded rows":
        model.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=64, mean_resizing=False)
    if case == "one token more":
        tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    folder = tempfile.mkdtemp(dir=".")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


torch.set_num_threads(1)
transformers.utils.logging.disable_progress_bar()
print(f"ctranslate2 {ctranslate2.__version__}, transformers {transformers.__version__}")
for family, refused in (("gpt2", {"padded rows", "one token more"}), ("llama", set())):
    for case in ("as many", "padded rows", "one token more"):
        folder = folder_of(family, case)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        model = transformers.AutoModelForCausalLM.from_pretrained(folder)
        prompt = torch.tensor([tokenizer.convert_tokens_to_ids(["t3", "t4", "t5"])])
        ids = model.generate(prompt, max_new_tokens=3, min_new_tokens=3, do_sample=False, pad_token_id=0)
        try:
            TransformersConverter(folder).convert(f"{folder}/converted")
            outcome = "converted"
        except ValueError as error:
            outcome = f"ValueError: {error}"
        print(f"{family}, {case}: transformers writes tokens {ids[0, -3:].tolist()}; CTranslate2: {outcome}")
        assert (outcome != "converted") == (case in refused), (family, case)
        assert case not in refused or "but the model expected a vocabulary of size" in outcome
PY
