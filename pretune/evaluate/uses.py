"""What pretune does with a model, for comparing it with what another reader does with the same files."""

from __future__ import annotations

from pretune.evaluate.embed import embed_texts
from pretune.generate.generate import greedy_tokens
from pretune.interop.foreign_reader import Uses

USES = Uses(greedy_tokens, embed_texts)
