"""Folders of `sentence-transformers` give the vectors that it gives itself, read here and written here."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentence_transformers
import torch
import transformers
from scipy import stats
from sentence_transformers.sentence_transformer import modules as theirs
from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator
from tinymodels import END, byte_tokenizer, save_bert, save_gpt2, word_tokenizer
from torch import nn

from pretune import api
from pretune.errors import DataError, MissingInputError, UsageError
from pretune.interop.huggingface import save_model
from pretune.model import Model
from pretune.text.readers.labelled import LabelledConfig

pytestmark = pytest.mark.usefixtures("unsealed")

WIDTH = 32
TEXTS = ["the quick brown fox", "a hat", "", "don't you think", "the lazy dog jumps over the cat " * 8]
Change = Callable[[Path], None]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT of 128 positions."""
    folder = tmp_path_factory.mktemp("bert")
    save_bert(folder, word_tokenizer())
    return folder


def saved(bert: Path, folder: Path, *modules: Any, length: int | None = None, **options: Any) -> Path:
    """A folder that sentence-transformers saves, of the model and some modules."""
    torch.manual_seed(3)
    transformer = theirs.Transformer(str(bert), max_seq_length=length)
    model = sentence_transformers.SentenceTransformer(modules=[transformer, *modules], device="cpu", **options)
    model.save(str(folder), create_model_card=False)
    return folder


def reread(folder: Path) -> sentence_transformers.SentenceTransformer:
    """The folder as sentence-transformers reads it."""
    return sentence_transformers.SentenceTransformer(str(folder), device="cpu", local_files_only=True)


def assert_equal_vectors(folder: Path, texts: list[str] = TEXTS, **options: Any) -> Model:
    """Reads a folder both ways, writes it, and reads that both ways."""
    expected = reread(folder).encode(texts, **options)
    model = api.load(folder, "cpu", "fp32")
    np.testing.assert_allclose(model.embed(texts, **options), expected, rtol=0, atol=1e-5)
    again = folder.with_name(folder.name + "-again")
    save_model(model.network, again, model.tokenizer)
    np.testing.assert_allclose(reread(again).encode(texts, **options), expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(api.load(again, "cpu", "fp32").embed(texts, **options), expected, rtol=0, atol=1e-5)
    return model


def change_json(path: Path, **fields: Any) -> None:
    """Sets fields of a JSON file."""
    tree = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(tree | fields))


@pytest.mark.parametrize(
    "mode",
    [
        "cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken",
        ("mean", "max"), ("lasttoken", "cls"), ("weightedmean", "cls", "mean_sqrt_len_tokens"),
    ],
)  # fmt: skip
def test_poolings(mode: Any, bert: Path, tmp_path: Path) -> None:
    assert_equal_vectors(saved(bert, tmp_path / "model", theirs.Pooling(WIDTH, mode)))


def test_what_comes_after_the_pooling(bert: Path, tmp_path: Path) -> None:
    """Dense with activation, without bias, with a residual branch; LayerNorm, Dropout, Normalize; and before it."""
    norm = theirs.LayerNorm(20)
    torch.nn.init.normal_(norm.norm.weight)
    for number, modules in enumerate(
        (
            [theirs.Pooling(WIDTH), theirs.Dense(WIDTH, WIDTH), theirs.Normalize()],
            [
                theirs.Pooling(WIDTH, ("cls", "max")),
                theirs.Dense(64, 20, bias=False, activation_function=nn.ReLU()),
                norm,
            ],
            [theirs.Pooling(WIDTH, "cls"), theirs.Dense(WIDTH, 7, activation_function=nn.GELU(), use_residual=True)],
            [theirs.Pooling(WIDTH), theirs.Dropout(0.5), theirs.Dense(WIDTH, WIDTH, use_residual=True)],
            [theirs.Dense(WIDTH, 9, module_input_name="token_embeddings"), theirs.Pooling(9, "max")],
            [theirs.Normalize("token_embeddings"), theirs.Pooling(WIDTH, "lasttoken"), theirs.Normalize()],
        )
    ):
        assert_equal_vectors(saved(bert, tmp_path / str(number), *modules))


def test_limits_prompts_and_dimensions(bert: Path, tmp_path: Path) -> None:
    prompts = {"query": "the fox: ", "document": "dog "}
    folder = saved(
        bert, tmp_path / "model", theirs.Pooling(WIDTH), length=16,
        prompts=prompts, default_prompt_name="query", truncate_dim=10,
    )  # fmt: skip
    model = assert_equal_vectors(folder)
    for options in ({"prompt_name": "document"}, {"prompt": ""}, {"prompt": "hat "}):
        assert_equal_vectors(folder, **options)
        shutil.rmtree(folder.with_name("model-again"))
    with pytest.raises(UsageError, match="query, document"):
        model.embed(TEXTS, prompt_name="passage")
    with pytest.raises(UsageError, match="one of them"):
        model.embed(TEXTS, prompt_name="query", prompt="")
    assert model.embed(TEXTS).shape == (5, 10)
    change_json(folder / "sentence_bert_config.json", max_seq_length=9)
    change_json(folder / "config_sentence_transformers.json", default_prompt_name=None)
    assert_equal_vectors(folder)


@pytest.mark.parametrize("mode", ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"])
def test_a_prompt_that_is_not_pooled(mode: Any, bert: Path, tmp_path: Path) -> None:
    folder = saved(
        bert, tmp_path / "model", theirs.Pooling(WIDTH, mode, include_prompt=False), prompts={"q": "the fox: "}
    )
    assert_equal_vectors(folder, prompt_name="q")
    shutil.rmtree(tmp_path / "model-again")
    assert_equal_vectors(folder)
    shutil.rmtree(tmp_path / "model-again")
    change_json(folder / "sentence_bert_config.json", max_seq_length=4)  # what is left of each text is its last [SEP]
    assert_equal_vectors(folder, prompt_name="q")


def test_a_prompt_that_takes_a_word_along_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Alone it ends with a blank that belongs to the next word in the whole: vectors are theirs, and it is said."""
    save_gpt2(tmp_path / "gpt2", byte_tokenizer())
    change_json(tmp_path / "gpt2" / "tokenizer_config.json", pad_token=END)
    pooling = theirs.Pooling(WIDTH, "mean", include_prompt=False)
    folder = saved(tmp_path / "gpt2", tmp_path / "model", pooling, prompts={"q": "the fox: ", "fit": "the fox:"})
    texts = ["the cat jumps", "(a hat)", "the dog sat"]
    vectors = assert_equal_vectors(folder, texts, prompt_name="q").embed(["the cat jumps"], prompt="the fox: ")
    shutil.rmtree(tmp_path / "model-again")
    assert "2 of 3 texts share a token with the end of the prompt 'the fox: '" in caplog.text
    caplog.clear()
    whole = assert_equal_vectors(folder, [" " + text for text in texts], prompt_name="fit").embed
    assert "share a token" not in caplog.text
    assert abs(whole([" the cat jumps"], prompt="the fox:") - vectors).max() > 0.1  # a word more


def test_lower_case(bert: Path, tmp_path: Path) -> None:
    folder = saved(bert, tmp_path / "model", theirs.Pooling(WIDTH))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        path = folder / name
        path.write_text(path.read_text().replace('"lowercase": true', '"lowercase": false'))
    change_json(folder / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast", do_lower_case=False)
    texts = ["The Quick FOX", "ΑΣ İ hat"]
    cased = assert_equal_vectors(folder, texts).embed(texts)
    change_json(folder / "sentence_bert_config.json", do_lower_case=True)
    shutil.rmtree(tmp_path / "model-again")
    assert abs(assert_equal_vectors(folder, texts).embed(texts) - cased).max() > 0.1


def test_older_folders(bert: Path, tmp_path: Path) -> None:
    """0_Transformer, a pooling folder of another name, older names of fields; its tokenizer is there too."""
    folder = saved(bert, tmp_path / "model", theirs.Pooling(WIDTH, "max"))
    (folder / "0_Transformer").mkdir()
    for path in [path for path in folder.iterdir() if path.is_file()]:
        if path.name not in ("modules.json", "config_sentence_transformers.json"):
            path.rename(folder / "0_Transformer" / path.name)
    (folder / "1_Pooling").rename(folder / "pooled")
    (folder / "pooled" / "config.json").write_text(
        json.dumps(
            {"word_embedding_dimension": WIDTH, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}
        )
    )
    prefix = "sentence_transformers.models."
    entries = [
        {"idx": 5, "name": "a", "path": "0_Transformer", "type": f"{prefix}Transformer"},
        {"idx": 0, "name": "b", "path": "pooled", "type": f"{prefix}Pooling"},
    ]
    (folder / "modules.json").write_text(json.dumps(entries))
    (folder / "config_sentence_transformers.json").unlink()
    assert_equal_vectors(folder)


def test_a_pooling_without_modules_is_not_used(bert: Path, tmp_path: Path) -> None:
    folder = saved(bert, tmp_path / "model", theirs.Pooling(WIDTH, "max"))
    (folder / "modules.json").unlink()
    model = api.load(folder, "cpu", "fp32")
    np.testing.assert_allclose(model.embed(TEXTS), reread(folder).encode(TEXTS), atol=1e-5)
    assert model.network.loaded is not None
    assert any("1_Pooling" in note and "not used" in note for note in model.network.loaded.notes)


def entries_of(folder: Path) -> Any:
    return json.loads((folder / "modules.json").read_text())


def renamed(name: str) -> Change:
    """The pooling is another class."""

    def change(folder: Path) -> None:
        first, second, *rest = entries_of(folder)
        (folder / "modules.json").write_text(json.dumps([first, second | {"type": name}, *rest]))

    return change


def in_json(path: str, **fields: Any) -> Change:
    return lambda folder: change_json(folder / path, **fields)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (renamed("my_module.Pooling"), "names code of its own"),
        (renamed("sentence_transformers.models.WordWeights"), "'WordWeights'.*sentence-transformers itself"),
        (renamed("sentence_transformers.models.LSTM"), "'LSTM'"),
        (renamed("sentence_transformers.models.Router"), "'Router'"),
        (renamed("sentence_transformers.models.New"), "'New'.*not known"),
        (in_json("1_Pooling/config.json", pooling_mode="median"), "pooling_mode"),
        (in_json("1_Pooling/config.json", pooling_mode_median_tokens=True), "pooling_mode_median_tokens"),
        (in_json("1_Pooling/config.json", embedding_dimension=31), "31"),
        (in_json("1_Pooling/config.json", include_prompt="no"), "include_prompt"),
        (in_json("2_Dense/config.json", activation_function="mine.Act"), "activation_function"),
        (in_json("2_Dense/config.json", activation_function="torch.nn.modules.linear.Linear"), "activation_function"),
        (in_json("2_Dense/config.json", module_output_name="token_embeddings"), "module_output_name"),
        (in_json("2_Dense/config.json", in_features=30), "in_features"),
        (in_json("2_Dense/config.json", out_features=30), "shape"),
        (in_json("2_Dense/config.json", bias=False), "'linear.bias' has no place"),
        (in_json("2_Dense/config.json", use_residual="x"), "use_residual"),
        (in_json("sentence_bert_config.json", max_seq_length="16"), "max_seq_length"),
        (in_json("sentence_bert_config.json", transformer_task="fill-mask"), "transformer_task"),
        (in_json("sentence_bert_config.json", modality_config={"message": {}}), "modality_config"),
        (in_json("sentence_bert_config.json", processing_kwargs={"text": {"add_special_tokens": False}}), "processing"),
        (in_json("sentence_bert_config.json", tokenizer_args={"padding_side": "left"}), "tokenizer_args"),
        (in_json("config_sentence_transformers.json", default_prompt_name="x"), "default_prompt_name"),
        (in_json("config_sentence_transformers.json", prompts={"a": 1}), "prompts"),
        (in_json("config_sentence_transformers.json", truncate_dim=0), "truncate_dim"),
        (lambda folder: (folder / "modules.json").write_text("[]"), "list of modules"),
        (lambda folder: (folder / "modules.json").write_text("{}"), "list of modules"),
        (lambda folder: (folder / "modules.json").write_text(json.dumps(entries_of(folder)[:1])), "Pooling"),
        (lambda folder: (folder / "modules.json").write_text(json.dumps(entries_of(folder)[1:])), "first module"),
        (lambda folder: (folder / "modules.json").write_text(json.dumps([*entries_of(folder)] * 2)), "twice"),
    ],
)  # fmt: skip
def test_what_is_not_done_is_refused_by_name(change: Change, message: str, bert: Path, tmp_path: Path) -> None:
    folder = saved(bert, tmp_path / "model", theirs.Pooling(WIDTH), theirs.Dense(WIDTH, WIDTH))
    change(folder)
    with pytest.raises(DataError, match=message):
        api.load(folder, "cpu", "fp32")


def test_files_that_are_not_there_and_paths_that_lead_away(bert: Path, tmp_path: Path) -> None:
    folder = saved(bert, tmp_path / "model", theirs.Pooling(WIDTH), theirs.Dense(WIDTH, WIDTH))
    entries = entries_of(folder)
    (folder / "modules.json").write_text(json.dumps([*entries[:2], entries[2] | {"path": "../2_Dense"}]))
    with pytest.raises(DataError, match="leads out"):
        api.load(folder, "cpu", "fp32")
    (folder / "modules.json").write_text(json.dumps(entries))
    (folder / "2_Dense" / "model.safetensors").unlink()
    with pytest.raises(MissingInputError, match="2_Dense"):
        api.load(folder, "cpu", "fp32")


def test_what_is_not_known_is_said_and_handed_on(bert: Path, tmp_path: Path) -> None:
    folder = saved(bert, tmp_path / "model", theirs.Pooling(WIDTH))
    change_json(folder / "config_sentence_transformers.json", novelty=1, similarity_fn_name="dot")
    change_json(folder / "sentence_bert_config.json", query_length=7)
    model = assert_equal_vectors(folder)
    assert model.network.loaded is not None
    assert any("'novelty'" in note for note in model.network.loaded.notes)
    again = tmp_path / "model-again"
    written = json.loads((again / "config_sentence_transformers.json").read_text())
    assert (written["novelty"], written["similarity_fn_name"]) == (1, "dot")
    assert json.loads((again / "sentence_bert_config.json").read_text())["query_length"] == 7


def test_an_export_is_read_by_sentence_transformers(bert: Path, tmp_path: Path) -> None:
    """Its modules go with it; a model without any that is written over it keeps none."""
    folder = saved(
        bert, tmp_path / "model", theirs.Pooling(WIDTH, "max"), theirs.Dense(WIDTH, 8), prompts={"q": "hat "}
    )
    model = api.load(folder, "cpu", "fp32")
    foreign = model.export(tmp_path / "out").foreign
    assert foreign.vectors > 0
    assert f"sentence-transformers {sentence_transformers.__version__}" in str(foreign)
    model.network.vectors = None
    assert model.export(tmp_path / "out").foreign.vectors == 0
    assert not (tmp_path / "out" / "modules.json").exists()


def test_a_folder_without_a_transformer_is_refused_by_its_module(bert: Path, tmp_path: Path) -> None:
    tokenizer = word_tokenizer().backend
    towers = [[theirs.Transformer(str(bert)), theirs.Pooling(WIDTH)] for _ in range(2)]
    firsts = {
        "StaticEmbedding": theirs.StaticEmbedding(tokenizer, embedding_dim=8),
        "BoW": theirs.BoW(["a", "fox"]),
        "Router": theirs.Router.for_query_document(*towers),
    }
    for name, module in firsts.items():
        model = sentence_transformers.SentenceTransformer(modules=[module], device="cpu")
        model.save(str(tmp_path / name), create_model_card=False)
        with pytest.raises(DataError, match=f"first module, '{name}'.*sentence-transformers itself"):
            api.load(tmp_path / name, "cpu", "fp32")


def test_models_of_other_sorts(tmp_path: Path) -> None:
    """Cross-encoders predict as there; their vectors, and dense ones of sparse encoders, are those of plain rows."""
    save_bert(tmp_path / "scores", word_tokenizer(), transformers.BertForSequenceClassification, ["alike"])
    save_bert(tmp_path / "words", word_tokenizer())
    cross = sentence_transformers.CrossEncoder(str(tmp_path / "scores"), device="cpu")
    cross.save_pretrained(str(tmp_path / "cross"))
    sparse = sentence_transformers.SparseEncoder(str(tmp_path / "words"), device="cpu")
    sparse.save(str(tmp_path / "sparse"), create_model_card=False)
    for name in ("cross", "sparse"):
        model = api.load(tmp_path / name, "cpu", "fp32")
        vectors = model.embed(TEXTS, "mean" if name == "sparse" else None)
        np.testing.assert_allclose(vectors, reread(tmp_path / name).encode(TEXTS), atol=1e-5)
        assert model.network.loaded is not None
        assert not any("model_type" in note for note in model.network.loaded.notes)
    pairs = [("the fox", "a hat"), ("the cat", "the dog")]
    predictions = api.load(tmp_path / "cross", "cpu", "fp32").predict(*map(list, zip(*pairs, strict=True)))
    expected = cross.predict(pairs)
    assert [p.probabilities["alike"] for p in predictions] == pytest.approx(expected.tolist(), abs=1e-5)
    change_json(tmp_path / "cross" / "config_sentence_transformers.json", prompts={"q": "a "}, default_prompt_name="q")
    with pytest.raises(DataError, match="no prompt is put before pairs"):
        api.load(tmp_path / "cross", "cpu", "fp32")


def test_pairs_are_compared_by_all_modules(bert: Path, tmp_path: Path) -> None:
    """The correlation that sentence-transformers' own evaluator finds; a bare pooling gives another one."""
    first = ["the fox", "a hat", "the lazy dog", "the cat ate", "quick brown", "don't you"]
    second = ["a dog", "the hat", "dog and cat", "a cat", "think", "you don't"]
    scores = [0.1, 4.0, 2.5, 3.0, 0.0, 5.0]
    pooling, dense = theirs.Pooling(WIDTH, ("max", "mean")), theirs.Dense(2 * WIDTH, 6)
    folder = saved(bert, tmp_path / "model", pooling, dense, prompts={"q": "hat "}, default_prompt_name="q", length=6)
    evaluator = EmbeddingSimilarityEvaluator(first, second, scores, main_similarity="cosine", write_csv=False)
    expected = evaluator(reread(folder))
    data = [{"text": a, "other": b, "label": c} for a, b, c in zip(first, second, map(str, scores), strict=True)]
    model = api.load(folder, "cpu", "fp32")
    columns = LabelledConfig(second="other")
    results = model.evaluate(data, task="similarity", columns=columns)
    assert results["spearman"] == pytest.approx(expected["spearman_cosine"], abs=1e-5)
    assert results["pearson"] == pytest.approx(expected["pearson_cosine"], abs=1e-5)
    bare = api.load(bert, "cpu", "fp32").evaluate(data, task="similarity", columns=columns)
    assert bare != pytest.approx(results, abs=1e-3)
    pooled = api.load(saved(bert, tmp_path / "last", theirs.Pooling(WIDTH, "lasttoken")), "cpu", "fp32")
    vectors = [pooled.embed(texts, normalize=True) for texts in (first, second)]
    spearman = stats.spearmanr((vectors[0] * vectors[1]).sum(axis=1), scores).statistic
    assert pooled.evaluate(data, task="similarity", columns=columns)["spearman"] == pytest.approx(spearman)


def test_another_pooling_of_a_model_with_modules(bert: Path, tmp_path: Path) -> None:
    """It stands in place of all modules, in `embed` and in `export`; prompts stay."""
    modules = [theirs.Pooling(WIDTH), theirs.Dense(WIDTH, 8)]
    folder = saved(bert, tmp_path / "model", *modules, prompts={"q": "hat "}, default_prompt_name="q")
    model = api.load(folder, "cpu", "fp32")
    model.export(tmp_path / "out", pooling="weightedmean")
    vectors = model.embed(TEXTS, "weightedmean")
    assert vectors.shape == (5, WIDTH)
    np.testing.assert_allclose(reread(tmp_path / "out").encode(TEXTS), vectors, atol=1e-5)


def test_segments_that_a_decoder_takes_for_words_are_said(tmp_path: Path) -> None:
    """transformers adds the vector of token 0 to every token of such a folder: vectors are others there."""
    save_gpt2(tmp_path / "gpt2", word_tokenizer())
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    config = tmp_path / "gpt2" / "tokenizer_config.json"
    for names, are_equal in ((inputs, False), (inputs[::2], True)):
        change_json(config, model_input_names=names, tokenizer_class="PreTrainedTokenizerFast")
        model = api.load(tmp_path / "gpt2", "cpu", "fp32")
        assert model.network.loaded is not None
        assert any("token_type_ids" in note for note in model.network.loaded.notes) != are_equal
        assert np.allclose(model.embed(TEXTS), reread(tmp_path / "gpt2").encode(TEXTS), atol=1e-4) == are_equal
