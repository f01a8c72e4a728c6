#!/usr/bin/env bash
# torchmetrics' BERTScore compares a text with the reference of another one: a text equal to its reference has F 0.86.
#
# Guess, written first: `bert_score(texts, references)` scores text i by reference i, as the package bert-score does of
# the same model and layer; the scores of a list in another order are the same scores in another order.
# Seen with torchmetrics 1.9.0, bert-score 0.3.13, transformers 5.23.0: texts and references are each sorted by length,
# for fuller batches, and are to be put back by `vectors[order]`, which sorts a second time and is right only where that
# order is its own inverse: in lists of two, or if two texts change places. From three on, text and reference i are no
# longer of one pair as soon as their lengths rank otherwise: of 12 pairs a few have the score that they have alone, "the
# cat" for "the cat" has 0.86 in a list of three, another pair gets its place, and the mean is another. bert-score gives
# 1.0 in any order. No warning; scores look like any.
# For pretune: it has no BERTScore; its scores of texts are those of sacrebleu and rouge-score.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 torchmetrics==1.9.0 bert-score==0.3.13 numpy==2.4.6
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" -W ignore - 2>log <<'PY' || { cat log; exit 1; }
import random
from importlib.metadata import version
from pathlib import Path

import bert_score
import torch
import transformers
from torchmetrics.functional.text import bert_score as of_torchmetrics

WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] the a cat dog sat on mat ran fast hill .".split()
Path("vocab.txt").write_text("\n".join(WORDS) + "\n")
transformers.BertTokenizer.from_pretrained(".", model_max_length=64).save_pretrained("model")
torch.manual_seed(0)
config = transformers.BertConfig(vocab_size=len(WORDS), hidden_size=32, num_hidden_layers=3, num_attention_heads=4,
                                 intermediate_size=64, max_position_embeddings=64, initializer_range=0.3)  # fmt: skip
transformers.BertModel(config).save_pretrained("model")
PAIRS = [("the cat", "the cat"), ("a dog", "a dog ran on the hill ."), ("the cat sat on the mat .", "the cat sat .")]
print({name: version(name) for name in ("torchmetrics", "bert-score", "transformers", "torch")})


def official(pairs: list[tuple[str, str]]) -> list[float]:
    texts, references = [a for a, _ in pairs], [b for _, b in pairs]
    return bert_score.score(texts, references, model_type="model", num_layers=2)[2].tolist()


def other(pairs: list[tuple[str, str]]) -> list[float]:
    texts, references = [a for a, _ in pairs], [b for _, b in pairs]
    f1 = of_torchmetrics(texts, references, model_name_or_path="model", num_layers=2, verbose=False)["f1"]
    return torch.atleast_1d(torch.as_tensor(f1)).tolist()


def close(left: list[float], right: list[float]) -> int:
    return sum(abs(a - b) < 1e-4 for a, b in zip(left, right, strict=True))


alone = [other([pair])[0] for pair in PAIRS]
for order in ([0, 1, 2], [2, 1, 0]):
    pairs = [PAIRS[n] for n in order]
    right, here, expected = official(pairs), other(pairs), [alone[n] for n in order]
    for name, values in (("bert-score", right), ("torchmetrics", here), ("torchmetrics, each alone", expected)):
        print(order, name, [round(value, 3) for value in values])
    assert [value > 0.9999 for value in right] == [n == 0 for n in order], "the equal pair alone is 1.0"
assert here[2] < 0.9 and close(here, expected) == 0, "reversed, no pair has its score"
assert close(other([PAIRS[2], PAIRS[0]]), [alone[2], alone[0]]) == 2, "lists of two are right"

draw = random.Random(0)
pairs = [tuple(" ".join(draw.choices(WORDS[5:], k=draw.randint(1, 20))) for _ in range(2)) for _ in range(12)]
right, here, expected = official(pairs), other(pairs), [other([pair])[0] for pair in pairs]
kept = close(here, expected)
means = [sum(values) / len(values) for values in (right, here, expected)]
print(f"of 12 pairs {kept} have the score that they have alone; means: bert-score {means[0]:.3f}, list {means[1]:.3f}, alone {means[2]:.3f}")
assert kept <= 4 and abs(means[1] - means[2]) > 0.004
PY
