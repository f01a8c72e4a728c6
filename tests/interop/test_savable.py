"""The dry run of saving: it passes what can be kept, and refuses what could not, before anything is trained."""

from pathlib import Path

import pytest
import torch
from tinymodels import byte_tokenizer
from torch import nn

from pretune.errors import DataError, MissingInputError
from pretune.find import variants
from pretune.interop.export import export_model
from pretune.interop.huggingface import load_model, save_model
from pretune.interop.metadata import Metadata, TaskRecord
from pretune.interop.savable import check_savable
from pretune.models import build
from pretune.models.model import get_family
from pretune.nn.heads import SequenceHead

FAMILIES = [
    (family, roles, tied)
    for family in variants("models")
    for roles in sorted(set(get_family(family).ARCHITECTURES.values()))
    for tied in (True, False)
]


@pytest.mark.parametrize(("family", "roles", "tied"), FAMILIES)
def test_all_families_pass_and_are_read_as_foretold(family, roles, tied, tmp_path):
    overrides = {"vocab_size": 60} | ({} if family in ("bart", "marian") else {"tie_word_embeddings": tied})
    labels = ["a", "b", "c"] if {"classification", "token_classification"} & set(roles) else None
    model = build(family, "tiny", list(roles), overrides, labels=labels)
    check_savable(model, None, tmp_path / "model")
    assert not any(tmp_path.iterdir())
    save_model(model, tmp_path / "model")
    again = load_model(tmp_path / "model")
    assert list(again.heads) == list(model.heads)
    assert not again.loaded.initialised
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), again.parameters(), strict=True))


class OwnHead(nn.Module):
    """What no format knows."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 5)
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, hidden, layout=None):
        return self.linear(hidden) * self.scale


def with_own_head(role: str = "tagging"):
    model = build("bert", "tiny", ["mlm"], {"vocab_size": 60})
    model.add_heads({role: OwnHead(model.width)})
    return model


def make(model):
    return {"tagging": OwnHead(model.width)}


def test_a_head_that_no_format_knows_is_saved_under_our_own_names(tmp_path):
    model = with_own_head()
    (tmp_path / "task.py").write_text("")
    model.metadata = Metadata(task=TaskRecord.of(str(tmp_path / "task.py")))
    check_savable(model, None, tmp_path / "model", {"task": make})
    save_model(model, tmp_path / "model")
    again = load_model(tmp_path / "model", makers={"task": make})
    assert torch.equal(again.heads["tagging"].linear.weight, model.heads["tagging"].linear.weight)
    assert set(again.heads) == {"mlm", "tagging"}
    assert again.metadata.heads == {"mlm": "standard", "tagging": "task"}
    by_hand = load_model(tmp_path / "model", heads=make)
    assert torch.equal(by_hand.heads["tagging"].linear.weight, model.heads["tagging"].linear.weight)
    with pytest.raises(DataError, match=r"head 'tagging' is made by the task .* pretune.load"):
        load_model(tmp_path / "model")
    with pytest.raises(DataError, match="head 'tagging' is made by the recorded task, which makes other"):
        load_model(tmp_path / "model", makers={"task": lambda model: {"other": OwnHead(model.width)}})


@pytest.mark.usefixtures("unsealed")
def test_a_head_in_the_files_that_no_one_names_is_said_by_name(tmp_path):
    model = with_own_head()
    model.metadata = Metadata(task=TaskRecord.of("classification"))
    save_model(model, tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    path.write_text(path.read_text().replace('"tagging": "task"', '"other": "standard"'))
    with pytest.raises(DataError, match=r"weight 'heads.tagging.* of a head 'tagging' that config.json does not name"):
        load_model(tmp_path / "model")
    loaded = load_model(tmp_path / "model", heads=["mlm"]).loaded
    assert loaded.unexpected == ["heads.tagging.scale", "heads.tagging.linear.weight", "heads.tagging.linear.bias"]


def test_a_head_of_nobody_is_refused_before_the_first_step(tmp_path):
    with pytest.raises(
        DataError, match=r"could not be saved and used: .*head 'tagging' is of code that the files do not"
    ):
        check_savable(with_own_head(), None, tmp_path / "model")


def test_a_standard_role_with_another_head_is_the_tasks(tmp_path):
    """As `classification` by a user's task: its own layers must not be read as those of `transformers`."""
    model = build("bert", "tiny", [], {"vocab_size": 60})
    model.add_heads({"classification": OwnHead(model.width)})
    model.metadata = Metadata(task=TaskRecord.of("classification"))
    maker = {"task": lambda model: {"classification": OwnHead(model.width)}}
    check_savable(model, None, tmp_path / "model", maker)


def test_a_body_that_the_map_does_not_have_is_refused(tmp_path):
    model = build("bert", "tiny", ["mlm"], {"vocab_size": 60})
    model.stack.blocks[0].attention.extra = nn.Linear(4, 4)
    with pytest.raises(DataError, match=r"could not be saved .*stack.blocks.0.attention.extra"):
        check_savable(model, None, tmp_path / "model")


def test_a_tokenizer_that_is_too_large_is_refused(tmp_path):
    model = build("gpt2", "tiny", ["clm"], {"vocab_size": 60})
    with pytest.raises(DataError, match=r"could not be saved .* a model of 60"):
        check_savable(model, byte_tokenizer(), tmp_path / "model")


OWN_FAMILY = """
from pretune.models import bert
from pretune.models.bert import SIZES, Config


def build(config):
    return bert.build(config)
"""


def test_a_family_that_nobody_knows_is_saved_under_our_own_names(tmp_path):
    (tmp_path / "own_bert.py").write_text(OWN_FAMILY)
    family = str(tmp_path / "own_bert.py")
    model = build(family, "tiny", ["mlm", "nsp"], {"vocab_size": 60})
    assert model.family == family
    check_savable(model, None, tmp_path / "model")
    save_model(model, tmp_path / "model")
    again = load_model(tmp_path / "model")
    assert again.family == family
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), again.parameters(), strict=True))
    with pytest.raises(DataError, match=r"own_bert.py has no WEIGHT_MAP, .* cannot be exported; .* pretune.load"):
        export_model(model, tmp_path / "exported")
    assert not (tmp_path / "exported").exists()
    (tmp_path / "own_bert.py").write_text(OWN_FAMILY + "\n")
    with pytest.raises(DataError, match="has changed since the model was saved"):
        load_model(tmp_path / "model")
    (tmp_path / "own_bert.py").unlink()
    with pytest.raises(MissingInputError, match="is gone"):
        load_model(tmp_path / "model")


def test_a_family_in_the_run_directory_is_refused_before_the_first_step(tmp_path):
    folder: Path = tmp_path / "run"
    folder.mkdir()
    (folder / "own_bert.py").write_text(OWN_FAMILY)
    model = build(str(folder / "own_bert.py"), "tiny", ["mlm"], {"vocab_size": 60})
    with pytest.raises(DataError, match=r"could not be saved .* never run"):
        check_savable(model, None, folder)


def test_what_an_objective_learned_beside_the_model_is_kept(tmp_path):
    model = build("bert", "tiny", ["mlm"], {"vocab_size": 60})
    model.extra_weights = {"objective.own.temperature": torch.tensor([3.0])}
    check_savable(model, None, tmp_path / "model")
    save_model(model, tmp_path / "model")
    again = load_model(tmp_path / "model")
    assert again.extra_weights["objective.own.temperature"].tolist() == [3.0]
    assert not again.loaded.unexpected
    save_model(again, tmp_path / "again")
    assert load_model(tmp_path / "again").extra_weights.keys() == model.extra_weights.keys()


def test_a_subclass_of_a_standard_head_is_not_taken_for_it(tmp_path):
    """Its forward may be another, so that the task's own file must make it, under the names that others know."""

    class Sharper(SequenceHead):
        def forward(self, hidden, layout):
            return 2 * super().forward(hidden, layout)

    def sharper(model):
        head = model.sequence_head(["a", "b"])
        head.__class__ = Sharper
        return {"classification": head}

    model = build("bert", "tiny", sharper, {"vocab_size": 60})
    model.metadata = Metadata(task=TaskRecord.of("classification"))
    save_model(model, tmp_path / "model")
    again = load_model(tmp_path / "model", makers={"task": sharper})
    assert type(again.heads["classification"]) is Sharper
    assert not again.loaded.initialised
