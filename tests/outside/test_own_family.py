"""Families in one file outside of pretune: trained by path, saved, loaded by every verb, exported.

`neox.py` is compared with `transformers` both ways; `prenorm.py` has no class there, and its weights are saved under
our own names.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import parity
import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch.nn.functional import log_softmax

import pretune
from pretune.errors import DataError, MissingInputError
from pretune.interop.huggingface import load_model, save_model
from pretune.models import build
from pretune.train.recipe import Recipe
from pretune.train.run import pretrain
from tests.train.trainkit import SHAPE, make_store, recipe, replaced

NEOX = str(Path(__file__).parent / "neox.py")
PRENORM = Path(__file__).parent / "prenorm.py"
SMALL = {
    "vocab_size": 61,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0, "partial_rotary_factor": 0.5},
}


@pytest.mark.parametrize("parallel", [True, False])
@pytest.mark.parametrize("tied", [True, False])
def test_theirs_is_read_as_theirs_computes(parallel, tied, tmp_path):
    torch.manual_seed(0)
    config = transformers.GPTNeoXConfig(**SMALL, use_parallel_residual=parallel, tie_word_embeddings=tied)
    theirs = transformers.GPTNeoXForCausalLM(config)
    parity.randomise(theirs)
    theirs.save_pretrained(tmp_path / "theirs")
    model = with_family(tmp_path / "theirs")
    assert not model.loaded.initialised
    assert not model.loaded.unexpected
    parity.assert_parity(model, theirs)


def test_older_files_say_the_rotation_in_other_fields(tmp_path):
    torch.manual_seed(0)
    theirs = transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**SMALL))
    parity.randomise(theirs)
    theirs.save_pretrained(tmp_path / "theirs")
    path = tmp_path / "theirs" / "config.json"
    config = json.loads(path.read_text())
    del config["rope_parameters"]
    path.write_text(json.dumps({**config, "rotary_pct": 0.5, "rotary_emb_base": 5000}))
    parity.assert_parity(with_family(tmp_path / "theirs"), theirs)


def with_family(folder: Path):
    """A foreign folder, whose config.json is told which file of ours is its family."""
    config = json.loads((folder / "config.json").read_text())
    record = build(NEOX, "tiny", ["clm"], {"vocab_size": 8}, allocate=False).metadata.family
    assert record is not None
    config["pretune"] = {"version": 1, "family": record.model_dump(mode="json")}
    (folder / "config.json").write_text(json.dumps(config))
    return load_model(folder)


@pytest.mark.parametrize(
    ("kind", "roles"),
    [
        (transformers.GPTNeoXForCausalLM, ["clm"]),
        (transformers.GPTNeoXForSequenceClassification, ["classification"]),
        (transformers.GPTNeoXForTokenClassification, ["token_classification"]),
        (transformers.GPTNeoXForQuestionAnswering, ["question_answering"]),
        (transformers.GPTNeoXModel, []),
    ],
)
def test_ours_is_read_by_theirs(kind, roles, tmp_path):
    labels = ["a", "b", "c"] if roles and "classification" in roles[0] else None
    model = build(NEOX, "tiny", roles, {**SMALL, "pad_token_id": 0}, labels=labels)
    parity.randomise(model)
    save_model(model, tmp_path / "ours")
    theirs = parity.reload(kind, tmp_path / "ours")
    parity.assert_parity(model, theirs)
    assert type(transformers.AutoModel.from_pretrained(tmp_path / "ours")) is transformers.GPTNeoXModel


@pytest.fixture(scope="module")
def neox_run(tmp_path_factory) -> Path:
    """A run of a user's copy of the file."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("neox")
    shutil.copy(NEOX, root / "neox.py")
    make_store(root / "store")
    model = {"family": str(root / "neox.py"), "size": "tiny", "overrides": {**SHAPE, "rotary_pct": 0.5}}
    settings = {"budget": {"steps": 30}, "optimizer": {"lr": 3e-3}}
    return pretrain(replaced(recipe(root / "run", root / "store", **settings), model=model, objective={"clm": 1.0}))


TEXTS = ["w1 w2 w3 w4 w5", "w7 w2 w9"]


def test_a_run_of_an_own_family_is_used_without_a_flag(neox_run, tmp_path):
    model = pretune.load(neox_run, device="cpu", precision="fp32")
    assert model.network.family == str(neox_run.parent / "neox.py")
    theirs = parity.reload(transformers.GPTNeoXForCausalLM, neox_run).eval()
    for score, text in zip(model.score(TEXTS), TEXTS, strict=True):
        tokens = torch.tensor([model.tokenizer.vocabulary.ending, *model.tokenizer.encode(text)])
        with torch.no_grad():
            predicted = log_softmax(theirs(tokens[None]).logits[0], dim=-1)
        expected = float(predicted[:-1].gather(1, tokens[1:, None]).sum())
        assert score.tokens == len(tokens) - 1
        assert score.log_prob == pytest.approx(expected, rel=1e-4)
    prompt = torch.tensor(model.tokenizer.encode(TEXTS[0]))
    with torch.no_grad():
        greedy = theirs.generate(prompt[None], do_sample=False, max_new_tokens=8, pad_token_id=0)[0, len(prompt) :]
    (ours,) = model.continuations([TEXTS[0]], max_new_tokens=8, temperature=0.0)
    assert list(ours.tokens)[: len(greedy)] == greedy.tolist()[: len(ours.tokens)]
    exported = model.export(tmp_path / "exported")
    assert exported.difference < 1e-5
    parity.assert_parity(model.network, parity.reload(transformers.GPTNeoXForCausalLM, tmp_path / "exported"))
    assert pretune.load(tmp_path / "exported", device="cpu").network.family == model.network.family


def test_an_own_family_goes_on_from_its_run(neox_run, tmp_path):
    more = recipe(tmp_path / "more", neox_run.parent / "store", budget={"steps": 5})
    run = pretrain(replaced(more, model={"init": str(neox_run)}, objective={"clm": 1.0}))
    assert load_model(run).family == str(neox_run.parent / "neox.py")


@pytest.mark.usefixtures("unsealed")
def test_an_own_family_that_changed_or_went_is_said(neox_run, tmp_path):
    shutil.copytree(neox_run, tmp_path / "run")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    own = tmp_path / "moved.py"
    config["pretune"]["family"]["name"] = str(own)
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    with pytest.raises(MissingInputError, match=r"moved.py.* is gone .* write its new place"):
        pretune.load(tmp_path / "run")
    shutil.copy(NEOX, own)
    assert pretune.load(tmp_path / "run").network.family == str(own)
    own.write_text(own.read_text() + "\n# changed\n")
    with pytest.raises(DataError, match="has changed since the model was saved"):
        pretune.load(tmp_path / "run")


def test_a_family_that_nobody_knows_trains_saves_and_loads(tmp_path):
    family = Path(shutil.copy(PRENORM, tmp_path))
    make_store(tmp_path / "store")
    model = {"family": str(family), "size": "tiny", "overrides": SHAPE}
    run = pretrain(replaced(recipe(tmp_path / "run", tmp_path / "store"), model=model))
    names = set(load_file(run / "model.safetensors"))
    assert "stack.blocks.0.norms.before_attention.weight" in names
    assert "heads.nsp.linear.weight" in names
    used = pretune.load(run, device="cpu", precision="fp32")
    assert used.network.family == str(family)
    assert set(used.network.heads) == {"mlm", "nsp"}
    assert not used.network.loaded.initialised
    assert len(used.fill("w1 w2 [MASK] w4")) == 1
    assert used.embed(["w1 w2"]).shape == (1, 32)
    with pytest.raises(DataError, match="has no WEIGHT_MAP"):
        used.export(tmp_path / "exported")
    assert not (tmp_path / "exported").exists()


def test_a_family_whose_map_lacks_a_weight_is_refused_before_the_first_step(tmp_path):
    family = Path(shutil.copy(PRENORM, tmp_path))
    family.write_text(family.read_text() + "\nfrom pretune.models.bert import ARCHITECTURES, PREFIX, WEIGHT_MAP\n")
    make_store(tmp_path / "store")
    settings: Recipe = recipe(tmp_path / "run", tmp_path / "store", budget={"steps": 2})
    with pytest.raises(DataError, match=r"could not be saved .*before_attention.* leave WEIGHT_MAP out"):
        pretrain(replaced(settings, model={"family": str(family), "size": "tiny"}))
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
