#!/usr/bin/env bash
# pytorch-crf with a mask that leaves out a position between others is no distribution: its probabilities sum to 4.8.
#
# Guess, written first: a mask says which positions count. Of five with [1, 1, 0, 1, 1], as where the second part of a word
# has no label of its own, the likelihood and the best tags are those of the four that are left.
# Seen with pytorch-crf 0.7.2, torch 2.13.0 (CPU): only a mask that leaves out the end is so; the documentation names the
# first position alone, which must be on and is checked. With a gap the score takes transitions from the tag that stands in
# the gap (so a filler, 0 or the padding label, changes the loss by nats) and the last tag from another position; the sum
# over all tags does not. The probabilities of all 81 taggings sum to something else than 1, and `decode` gives tags that are
# not the best ones of the four. No error, and training runs.
# For pretune: a CRF is given the rows of the words alone, so that there are no gaps (`nn/crf.py`); tests compare on those.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 pytorch-crf==0.7.2
"$folder/venv/bin/python" -W ignore - <<'PY'
import itertools
from importlib.metadata import version

import torch
from torchcrf import CRF

LABELS = 3
torch.manual_seed(0)
crf = CRF(LABELS, batch_first=True)
for parameter in crf.parameters():
    torch.nn.init.normal_(parameter, std=2.0)
emissions = torch.randn(1, 5, LABELS)
print(f"pytorch-crf {version('pytorch-crf')}, torch {torch.__version__}")


@torch.no_grad()
def tagged(mask: list[int], tags: tuple[int, ...], filler: int = 0) -> float:
    """The log-likelihood of the tags of what the mask keeps, with a filler elsewhere."""
    row = torch.full((1, len(mask)), filler)
    row[0, [n for n, kept in enumerate(mask) if kept]] = torch.tensor(tags)
    return float(crf(emissions, row, torch.tensor([mask], dtype=torch.bool)))


def total(mask: list[int]) -> float:
    return sum(torch.tensor(tagged(mask, tags)).exp().item() for tags in itertools.product(range(LABELS), repeat=sum(mask)))


end, gap, tags = [1, 1, 1, 1, 0], [1, 1, 0, 1, 1], (0, 1, 2, 0)
print(f"mask {end}: the probabilities of all taggings sum to {total(end):.4f}")
assert abs(total(end) - 1) < 1e-4
assert tagged(end, tags, 0) == tagged(end, tags, 2), "what stands behind the end does not matter"
print(f"mask {gap}: they sum to {total(gap):.4f}")
assert abs(total(gap) - 1) > 0.5

kept = emissions[:, [n for n, on in enumerate(gap) if on]]
alone = float(crf(kept, torch.tensor([tags])))
fillers = [tagged(gap, tags, filler) for filler in range(LABELS)]
print(f"log-likelihood of the four alone {alone:.3f}; with the gap filled by 0, 1, 2: {[round(value, 3) for value in fillers]}")
assert max(fillers) - min(fillers) > 1 and all(abs(value - alone) > 0.5 for value in fillers)
best, found = crf.decode(kept)[0], crf.decode(emissions, torch.tensor([gap], dtype=torch.bool))[0]
print(f"best tags of the four alone {best}; decoded with the gap {found}")
assert best != found and len(best) == len(found)
PY
