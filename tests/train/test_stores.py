"""What a run says of its stores before the first step: what was left out, and what an objective cannot use."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from trainkit import WORDS, make_tokenizer, recipe, replaced

from pretune.errors import DataError
from pretune.text.store.prepare import PrepareConfig, prepare
from pretune.train.run import pretrain


def store_of(folder: Path, documents: list[str]) -> Path:
    """A store of documents, each a paragraph."""
    (folder / "text.txt").write_text("\n\n".join(documents))
    prepare(
        folder / "text.txt",
        make_tokenizer(folder / "tokenizer"),
        folder / "store",
        PrepareConfig(processes=1, validation=0.01),
    )
    return folder / "store"


def sentences(count: int, seed: int = 0) -> list[str]:
    draw = np.random.default_rng(seed)
    return [" ".join(draw.choice(WORDS, 7)) for _ in range(count)]


@pytest.mark.parametrize("objective", ["nsp", "sop", "structure"])
def test_documents_of_one_sentence_give_no_pair(objective, tmp_path):
    """300 of them trained at loss 0.0000, "the best so far", and finished as a model."""
    store = store_of(tmp_path, sentences(300))
    run = replaced(recipe(tmp_path / "run", store), objective={objective: 1.0})
    with pytest.raises(
        DataError, match=rf"none of the 29\d windows has two sentences, so that {objective} can make no"
    ):
        pretrain(run)
    assert not (tmp_path / "run").exists()
    with pytest.raises(DataError, match=rf"or drop {objective}"):
        pretrain(replaced(run, objective={"mlm": 1.0, objective: 1.0}))


def test_the_share_without_a_pair_is_said(tmp_path, capsys):
    long = [f"{a} . W {b} ." for a, b in zip(sentences(20, 1), sentences(20, 2), strict=True)]
    store = store_of(tmp_path, [*sentences(60), *long])
    pretrain(recipe(tmp_path / "run", store, budget={"steps": 1}, track={"progress": "plain"}))
    output = capsys.readouterr().err
    assert re.search(r"\d\d of \d\d windows \(7\d%\) are of one sentence and give no pair for nsp", output)


def test_steps_with_nothing_to_predict_are_a_warning(tmp_path, capsys):
    """Text that the tokenizer does not know ended in an error of torch, and then in "loss 0.0000, the best so far"."""
    store = store_of(tmp_path, [f"天地玄黄 {n}" for n in range(40)])
    run = recipe(tmp_path / "run", store, budget={"steps": 2}, track={"progress": "plain"})
    pretrain(replaced(run, objective={"mlm": 1.0}))
    output = capsys.readouterr().err
    assert "(66.7%) unknown to the tokenizer, so that the model cannot read them; train a tokenizer on" in output
    assert output.count("nothing was to be predicted, so that the loss is 0") == 1
