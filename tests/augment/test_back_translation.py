"""Back-translation by two real translators: tiny, and trained here until they know their sentences by heart."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers, processors
from torch.nn import functional

from pretune.batch import ragged
from pretune.cli import main
from pretune.interop.huggingface import save_model
from pretune.models import build
from pretune.text.tokenizer.tokenizer import Tokenizer

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
WORDS = ["a", "the", "good", "bad", "film", "movie", "一", "这", "好", "坏", "片"]
ENGLISH = [f"{article} {kind} film" for article in ("a", "the") for kind in ("good", "bad")]
CHINESE = [f"{article} {kind} 片" for article in ("一", "这") for kind in ("好", "坏")]
MOVIES = [text.replace("film", "movie") for text in ENGLISH]


def words() -> Tokenizer:
    """A token a word."""
    vocab = {word: n for n, word in enumerate([*SPECIAL, *WORDS])}
    backend = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    backend.add_special_tokens(SPECIAL)
    return Tokenizer(backend)


def translator(folder: Path, sources: list[str], targets: list[str]) -> Path:
    """A model that writes each target for its source."""
    tokenizer = words()
    fields = {"vocab_size": tokenizer.vocabulary.size, "pad_token_id": 0, "decoder_start_token_id": 0}
    fields |= {"eos_token_id": 3, "forced_eos_token_id": None, "d_model": 32, "max_position_embeddings": 16}
    fields |= {f"{side}_attention_heads": 4 for side in ("encoder", "decoder")}
    fields |= {f"{side}_ffn_dim": 64 for side in ("encoder", "decoder")}
    fields |= {"dropout": 0.0, "attention_dropout": 0.0}  # What is learned by heart leaves nothing to chance.
    model = build("marian", "tiny", ["clm"], fields)
    read, write = ([tokenizer.vocabulary.with_end(tokenizer.encode(t)) for t in texts] for texts in (sources, targets))
    batch = replace(ragged([np.append(0, tokens[:-1]) for tokens in write]), source=ragged(read))
    wanted = torch.from_numpy(np.concatenate(write))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(1000):
        loss = functional.cross_entropy(model.heads["clm"](model(batch).last_hidden_state), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss.item() < 0.002:
            break
    assert loss.item() < 0.002
    save_model(model.eval(), folder, tokenizer)
    return folder


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """There, where films and movies are the same, and back, where all are movies."""
    folder = tmp_path_factory.mktemp("translators")
    there = translator(folder / "there", ENGLISH + MOVIES, CHINESE * 2)
    return there, translator(folder / "back", CHINESE, MOVIES)


@pytest.mark.parametrize("pairs", [False, True])
def test_a_text_comes_back_in_other_words(pairs: bool, both: tuple[Path, Path], tmp_path: Path) -> None:
    there, back = both
    rows = tmp_path / "rows.csv"
    rows.write_text("text,label\n" + "".join(f"{text},{text.split()[1]}\n" for text in ENGLISH), encoding="utf-8")
    command = ["augment", str(rows), "--methods", "translation", "--there", str(there), "--back", str(back), "--quiet"]
    for name in ("once", "again"):
        options = ["--pairs", "true"] if pairs else ["--keep", "false"]
        assert main([*command, "--output", str(tmp_path / f"{name}.jsonl"), *options]) == 0
    once = (tmp_path / "once.jsonl").read_text(encoding="utf-8")
    assert once == (tmp_path / "again.jsonl").read_text(encoding="utf-8")
    actual = [json.loads(line) for line in once.splitlines()]
    assert [row["second" if pairs else "text"] for row in actual] == MOVIES
    assert [row["label"] for row in actual] == [text.split()[1] for text in MOVIES]
    if pairs:
        assert [row["text"] for row in actual] == ENGLISH
