#!/usr/bin/env bash
# tomotopy's `add_doc` gives 1 for every document, and leaves empty ones out: topics of a text stand beside another text.
#
# Guess, written first: `add_doc` returns "an index of the inserted document", 0, 1, 2 ..., by which `model.docs[index]`
# is asked later; a text of which no words are left after stopwords keeps its place, or None says that it has none.
# Seen with tomotopy 0.14.0: what comes back is 1 for each document, and `model.docs[1]` is an IndexError, however many
# there are; they can be iterated over. An empty one is not added and gives None: `zip(texts, model.docs)` pairs each text
# behind it with its neighbour's topics, and is one short without saying so. Here the text "cat dog fur" is shown with the
# topics of "stock bond bank". Only a list of one's own of those that were not None keeps them apart.
# For pretune: it models no topics; `predict` answers the records in their order, one line each.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet tomotopy==0.14.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
from typing import Any

import tomotopy

PETS, MONEY = ["cat", "dog", "fur"] * 8, ["stock", "bond", "bank"] * 8
TEXTS = [MONEY, [], PETS, MONEY, *([PETS, MONEY] * 20)]
model = tomotopy.LDAModel(k=2, seed=1)
print("tomotopy", tomotopy.__version__, "-", tomotopy.LDAModel.add_doc.__doc__.splitlines()[0].strip()[:90])
numbers = [model.add_doc(text) for text in TEXTS]
print("add_doc gave:", numbers[:6], "...")
assert numbers[1] is None and set(numbers) - {None} == {1}
assert len(model.docs) == len(TEXTS) - 1
model.train(200, workers=1)


def topic(document: Any) -> int:
    return int(document.get_topics(top_n=1)[0][0])


def words(document: Any) -> list[str]:
    return [model.vocabs[int(number)] for number in document.words]


for text, document in list(zip(TEXTS, model.docs))[:4]:
    print("text:", text[:3], "document beside it:", words(document)[:3], "topic", topic(document))
beside = [set(words(document)) == set(text) for text, document in zip(TEXTS, model.docs)]
assert beside[0] and not any(beside[1:3])
kept = [text for text in TEXTS if text]
assert all(set(words(document)) == set(text) for text, document in zip(kept, model.docs, strict=True))
documents = list(model.docs)
assert topic(documents[1]) != topic(documents[0]), "pets and money are two topics"
try:
    model.docs[1]
    found = True
except IndexError:
    found = False
print("docs[1] of", len(documents), "documents:", "found" if found else "IndexError")
assert not found
PY
