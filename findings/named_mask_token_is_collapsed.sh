#!/usr/bin/env bash
# To name the mask token that shap would have taken anyway changes every attribution of a text.
#
# Guess, written first: a setting that is written out with the value that it has by default changes nothing.
# Seen with shap 0.51.0, transformers 5.23.0, torch 2.13.0: `maskers.Text(tokenizer)` takes `[MASK]` from a BERT tokenizer and hides n words by n
# of them; `maskers.Text(tokenizer, mask_token="[MASK]")` hides a run of words by a single one, as `collapse_mask_token` is "auto", which
# means False where the token was found and True where it was given. So the texts that the model sees are shorter, the base value is that of
# a text of one mask, and attributions are others, some of the opposite sign; both sum up exactly, so that no check of
# completeness shows it. `collapse_mask_token=False` beside the named token is the default again.
# For pretune: it does not use shap; who compares its own attributions with shap's has to say by how many masks a text is hidden.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 shap==0.51.0
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PY' 2>/dev/null
from importlib.metadata import version

import numpy as np
import shap
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

print({name: version(name).partition("+")[0] for name in ("shap", "transformers", "torch")})
special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
words = "the film is not good bad and plot was very dull great".split()
backend = Tokenizer(models.WordPiece({token: n for n, token in enumerate([*special, *words])}, unk_token="[UNK]"))
backend.normalizer, backend.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **dict(zip(names, special, strict=True)))
torch.manual_seed(0)
config = BertConfig(
    vocab_size=len(tokenizer), hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128,
    num_labels=2, initializer_range=0.3,
)
model = BertForSequenceClassification(config).eval()


def scores(texts: list[str]) -> np.ndarray:
    batch = tokenizer([str(text) for text in texts], padding=True, return_tensors="pt")
    with torch.no_grad():
        return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.numpy()


text = "the film is not good and the plot was very dull"


def explain(**settings: object) -> tuple[float, np.ndarray, float]:
    """The base value, the attributions of the words, and by how much they miss the sum, for the second label."""
    found = shap.Explainer(scores, shap.maskers.Text(tokenizer, **settings), silent=True)([text])
    base, values = float(found.base_values[0][1]), found.values[0][:, 1]
    return base, values, abs(base + values.sum() - float(scores([text])[0, 1]))


found = {
    "by default": explain(),
    "named": explain(mask_token="[MASK]"),
    "named, not collapsed": explain(mask_token="[MASK]", collapse_mask_token=False),
}
one, all_words = (float(scores([" ".join(["[MASK]"] * n)])[0, 1]) for n in (1, len(text.split())))
for name, (base, values, missing) in found.items():
    print(f"{name}: base {base:.3f}, misses the sum by {missing:.1g}, attributions {values.round(2).tolist()}")
print(f"score of one mask {one:.3f}, of {len(text.split())} masks {all_words:.3f}")
default, named, spread = found["by default"], found["named"], found["named, not collapsed"]
assert all(missing < 1e-4 for _, _, missing in found.values())
assert abs(named[0] - one) < 1e-4 and abs(default[0] - one) > 0.1
assert np.allclose(default[1], spread[1], atol=1e-4) and abs(default[0] - spread[0]) < 1e-4
flipped = int(((default[1] * named[1]) < 0).sum())
print(f"of the other sign: {flipped} of {len(named[1])}")
assert flipped >= 2
PY
