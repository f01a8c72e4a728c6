#!/usr/bin/env bash
# The token-classification pipeline takes words apart at punctuation even where it is given the words.
#
# Guess, written first: with `is_split_into_words=True` the pipeline knows the words, so that the strategies `first`,
# `average` and `max` give each of them one label: `U.S.` and `sub-Antarctic` stay whole, as in training on CoNLL columns.
# Seen with transformers 5.23.0, torch 2.13.0 (CPU): the numbers of the words only move the offsets. What one word is
# still comes from the tokenizer: `sub`, `-`, `antarctic` are three, each with a label of its own, and an entity `U.S.`
# is found as `U`. No warning. A model that was trained on the first token of each word, as the examples of transformers
# do it, is asked about tokens of which it has learned nothing.
# For pretune: tagging answers for the words of a record (`tokens`), or for what stands between blanks, and its comparison
# with the pipeline looks at words and not at entities.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - <<'PY'
import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

transformers.logging.set_verbosity_error()
pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "sub", "-", "antarctic", "u", ".", "s", "sea", "##s"]
backend = Tokenizer(models.WordPiece({piece: n for n, piece in enumerate(pieces)}, unk_token="[UNK]"))
backend.normalizer = normalizers.BertNormalizer(lowercase=True)
backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
special = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **special)
labels = {0: "O", 1: "B-LOC", 2: "I-LOC"}
config = transformers.BertConfig(
    vocab_size=len(pieces), hidden_size=len(pieces), num_hidden_layers=0, num_attention_heads=1, id2label=labels
)
model = transformers.BertForTokenClassification(config).eval()
with torch.no_grad():  # a token is its own hidden state: `sub` and `u` begin a place, `sea` goes on with one
    for parameter in model.parameters():
        parameter.zero_()
    model.bert.embeddings.LayerNorm.weight.fill_(1.0)
    model.bert.embeddings.word_embeddings.weight.copy_(torch.eye(len(pieces)))
    model.classifier.bias[0] = 0.5
    model.classifier.weight[1, [4, 7]] = 9.0
    model.classifier.weight[2, 10] = 9.0
sentences = [["the", "sub-Antarctic", "seas"], ["U.S."]]
for strategy in ("first", "average", "max"):
    tag = transformers.pipeline("token-classification", model=model, tokenizer=tokenizer, aggregation_strategy=strategy)
    found = [[(e["entity_group"], e["start"], e["end"]) for e in each] for each in tag(sentences, is_split_into_words=True)]
    print(f"transformers {transformers.__version__} {strategy}: {found}")
    assert found != [[("LOC", 4, 22)], [("LOC", 0, 4)]], "given words stay whole now"
    assert found == [[("LOC", 4, 7), ("LOC", 18, 22)], [("LOC", 0, 1)]], "something else is done now"
PY
