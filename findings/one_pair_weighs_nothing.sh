#!/usr/bin/env bash
# BERTScore weighted by idf is 0.0 where there is one reference, also for a text that equals it.
#
# Guess, written first: `idf=True` weighs rare words more. A text that equals its reference has F 1.0 with any weights,
# and one that is scored alone the same as among others, or is refused for want of a collection.
# Seen with bert-score 0.3.13, transformers 5.23.0: the weight of a token is log((N + 1) / (n + 1)) over the N references
# of the call. With one reference all its tokens have the weight 0, and F is 0 over 0, which becomes 0.0: of equal texts
# and of any others. Scoring a test set pair by pair, or in parts, gives other numbers than at once. With references that
# share their words (a question asked in every text, a template) only what they do not share counts. Nothing warns.
# For pretune: it has no BERTScore; its scores of texts are those of sacrebleu and rouge-score, which need no collection.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 bert-score==0.3.13 numpy==2.4.6
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" -W ignore - 2>log <<'PY' || { cat log; exit 1; }
from importlib.metadata import version
from pathlib import Path

import bert_score
import torch
import transformers

WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] the a cat dog sat on mat ran fast hill .".split()
Path("vocab.txt").write_text("\n".join(WORDS) + "\n")
transformers.BertTokenizer.from_pretrained(".", model_max_length=64).save_pretrained("model")
torch.manual_seed(0)
config = transformers.BertConfig(vocab_size=len(WORDS), hidden_size=32, num_hidden_layers=3, num_attention_heads=4,
                                 intermediate_size=64, max_position_embeddings=64, initializer_range=0.3)  # fmt: skip
transformers.BertModel(config).save_pretrained("model")
print({name: version(name) for name in ("bert-score", "transformers", "torch")})


def scores(texts: list[str], references: list[str], idf: bool) -> list[float]:
    out = bert_score.score(texts, references, model_type="model", num_layers=2, idf=idf)[2].tolist()
    print(f"{texts} for {references}, idf {idf}: {[round(f, 3) for f in out]}")
    return out


assert scores(["the cat sat ."], ["the cat sat ."], idf=False)[0] > 0.999
assert scores(["the cat sat ."], ["the cat sat ."], idf=True) == [0.0]
assert scores(["a dog ran"], ["the cat sat ."], idf=True) == [0.0]
together = scores(["the cat sat .", "a dog ran"], ["the cat sat .", "the dog ran fast ."], idf=True)
assert together[0] > 0.999 and together[1] > 0.1
PY
