#!/usr/bin/env bash
# Packed rows see each other where keys and values are cached, which is the default; without a cache they do not.
#
# Guess, written first: `use_cache` decides about speed and memory. Three texts that `DataCollatorWithFlattening` packs into one
# row, with positions that begin again, have the logits that each has alone, or attention that cannot do so refuses.
# Seen with transformers 5.23.0, torch 2.13.0 (CPU), with the attention `sdpa` and `eager`: GPT-2, Llama, Qwen3 and GPT-NeoX find
# the borders in `position_ids` only where there is no cache. `model(**batch)` in evaluation makes one, as config.json says
# `use_cache`: each text then sees those before it, logits are off by several of their deviations, and the loss is another.
# With `use_cache=False` they are within 1e-5 of each alone. OPT, BERT, DistilBERT and ModernBERT never look for borders: in
# them packed texts see each other in either case. No warning; losses and metrics look like any.
# For pretune: a batch is a run of tokens with the lengths of its sequences, which attention, cache and all, goes by.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" -W ignore - 2>log <<'PY' || { cat log; exit 1; }
import torch
import transformers

TEXTS = [list(range(5, 12)), list(range(12, 17)), [20, 21, 22]]
PLAIN = {"vocab_size": 64, "max_position_embeddings": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
WIDE = PLAIN | {"intermediate_size": 48, "initializer_range": 0.2}
IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
CASES = [  # class, configuration, fields, whether a call without a cache tells the texts apart
    ("GPT2LMHeadModel", "GPT2", {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64, "initializer_range": 0.2, **IDS}, True),
    ("LlamaForCausalLM", "Llama", WIDE | IDS, True),
    ("Qwen3ForCausalLM", "Qwen3", WIDE | IDS | {"head_dim": 16, "num_key_value_heads": 2}, True),
    ("GPTNeoXForCausalLM", "GPTNeoX", WIDE | IDS, True),
    ("OPTForCausalLM", "OPT", PLAIN | IDS | {"ffn_dim": 48, "word_embed_proj_dim": 32, "init_std": 0.2}, False),
    ("BertForMaskedLM", "Bert", WIDE, False),
    ("DistilBertForMaskedLM", "DistilBert", {"vocab_size": 64, "dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 2, "initializer_range": 0.2}, False),
    ("ModernBertForMaskedLM", "ModernBert", WIDE | IDS | {"cls_token_id": 1, "sep_token_id": 2}, False),
]  # fmt: skip
packed = transformers.DataCollatorWithFlattening()([{"input_ids": text, "labels": text} for text in TEXTS])
print(f"transformers {transformers.__version__}, torch {torch.__version__}")
print("positions:", packed["position_ids"].tolist())
for name, config, fields, apart in CASES:
    for attention in ("sdpa", "eager"):
        torch.manual_seed(0)
        settings = getattr(transformers, f"{config}Config")(**fields)
        model = getattr(transformers, name)._from_config(settings, attn_implementation=attention).eval()
        with torch.inference_mode():
            alone = torch.cat([model(input_ids=torch.tensor([text])).logits[0] for text in TEXTS])
            plain = model(**packed)
            without = model(**packed, use_cache=False)
        deviation = float(alone.std())
        wrong, right = (float((out.logits[0] - alone).abs().max()) / deviation for out in (plain, without))
        print(f"{name}, {attention}: off by {wrong:.2f} deviations, loss {plain.loss:.3f}; without a cache by {right:.1e}, loss {without.loss:.3f}")
        assert wrong > 0.5
        assert right < 1e-4 if apart else right > 0.5
PY
