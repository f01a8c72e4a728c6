"""Names each weight in a model's files: by the family's Hugging Face name, or by our own where there is none.

Our own names are those of the model's parameters (`stack.blocks.0...`, `heads.tagging...`). They are used for heads
that the family's map does not have, and for everything in a family without a `WEIGHT_MAP`, a user's file that no other
software knows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from pretune.errors import DataError
from pretune.interop.weights import NamedTensors
from pretune.models.head_table import class_prefixes_of, classes_of, encoder_class_of, prefix_of, weight_map_of
from pretune.models.model import LanguageModel
from pretune.models.weight_map import Weight, expand, join
from pretune.nn.heads import VocabularyHead
from pretune.nn.rounded import matrix_name, rounded_bricks, rounded_tensors

OBJECTIVE = "objective."
"""Prefix of the weights of an objective, or of a task, that stand beside the model's."""
_OLD_PARTS = {".gamma": ".weight", ".beta": ".bias"}
_BUFFERS = (
    *(".position_ids", ".token_type_ids", ".attn.bias", ".attn.masked_bias", ".attention.masked_bias"),
    *(".attn.attention.bias", ".rotary_emb.inv_freq", ".encoder.version", ".decoder.version"),
    ".block.0.layer.1.EncDecAttention.relative_attention_bias.weight",  # which T5's first files hold and nobody reads
)


def plain_name(name: str, prefixes: Sequence[str]) -> str:
    """Returns a name in a file without a prefix of the family's body, and `weight` for the older `gamma`."""
    for old, new in _OLD_PARTS.items():
        if name.endswith(old):
            name = name.removesuffix(old) + new
    return next((name.removeprefix(prefix) for prefix in prefixes if name.startswith(prefix)), name)


def body_prefixes(family: str) -> list[str]:
    """Lists what the names of a family's body may begin with in files, the usual prefix first."""
    usual = prefix_of(family)
    return [prefix for prefix in dict.fromkeys([usual, *class_prefixes_of(family).values()]) if prefix]


def file_names(model: LanguageModel) -> list[tuple[str, str, Weight]]:
    """Lists (ours, theirs, weight) for all that the files of a model may hold, in the order of the files."""
    weights, parameters = weight_map_of(model.family), [name for name, _ in model.named_parameters()]
    if weights is None:
        return [(name, name, Weight(name, name)) for name in parameters]
    own = own_roles(model)
    named = _whole([item for item in expand(weights, model) if _role(item[0]) not in own], model)
    return [*named, *((name, name, Weight(name, name)) for name in parameters if _role(name) in own)]


def _whole(names: list[tuple[str, str, Weight]], model: LanguageModel) -> list[tuple[str, str, Weight]]:
    """Gives our own names to the parameters of a file's tensor of which another part is rounded."""
    rounded = {matrix_name(path) for path, _ in rounded_bricks(model)}
    halved = {theirs for ours, theirs, weight in names if ours in rounded and not weight.alias}
    return [
        (ours, ours, Weight(ours, ours)) if theirs in halved and ours not in rounded else (ours, theirs, weight)
        for ours, theirs, weight in names
    ]


def own_roles(model: LanguageModel) -> set[str]:
    """Lists the heads that are saved under our own names, whole.

    The family's map lacks some of their weights, or an earlier head of the model has the same names there, as the
    classes of sequences and those of tokens have.
    """
    weights = weight_map_of(model.family)
    names = {} if weights is None else {ours: theirs for ours, theirs, weight in expand(weights, model)}
    own: set[str] = set()
    used: set[str] = set()
    parameters = [name for name, _ in model.named_parameters()]
    for role in model.heads:
        ours = [name for name in parameters if _role(name) == role]
        theirs = {names.get(name, "") for name in ours}
        if "" in theirs or theirs & used:
            own.add(role)
        else:
            used |= theirs
    return own


def _role(name: str) -> str | None:
    """Returns the role of the head that a parameter of ours is in."""
    return name.split(".")[1] if name.startswith("heads.") else None


def architecture(model: LanguageModel) -> str | None:
    """Names the `transformers` class that a model's heads make it; None for none. Other heads are still written."""
    offered = classes_of(model.family)
    roles = set(model.heads) - own_roles(model)
    encoder = encoder_class_of(model.family)
    if encoder is not None and not roles and getattr(model, "is_encoder_alone", False):
        return encoder
    fitting = [name for name, needed in offered.items() if set(needed) <= roles]
    return max(fitting or list(offered)[-1:], key=lambda name: len(offered[name]), default=None)


def export_weights(model: LanguageModel) -> dict[str, Tensor]:
    """Collects the weights by their names in files, tied ones once, in the order of the family's map.

    Raises:
        DataError: a weight of the body that the family's map does not have.
    """
    return join_weights(model, {name: tensor.detach() for name, tensor in model.named_parameters()})


def join_weights(model: LanguageModel, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Does the same with tensors by our names, which may be on the device `meta`, for their shapes alone."""
    parameters: dict[str, list[tuple[Weight, Tensor]]] = {}
    written: set[str] = set()
    for ours, theirs, weight in file_names(model):
        if ours in tensors and not (weight.alias and model.config.tie_word_embeddings):
            parameters.setdefault(theirs, []).append((weight, tensors[ours]))
            written.add(ours)
    if tensors.keys() - written:
        raise DataError(
            f"weights {sorted(tensors.keys() - written)[:3]} are in no WEIGHT_MAP of {model.family}: undo or merge the "
            "surgery (adapters) before saving; for a family of your own, add them to its WEIGHT_MAP, or leave "
            "WEIGHT_MAP out to save all weights under our own names"
        )
    in_class = ClassNames(model)
    rounded = rounded_tensors(model)
    out = {
        in_class.name(shared[0][0].ours, theirs): join(theirs, shared, model.config)
        for theirs, shared in parameters.items()
    }
    return out | rounded | {name: tensor.detach() for name, tensor in model.extra_weights.items()}


class ClassNames:
    """Names weights as the `transformers` class of a model has them, whose body may have another prefix.

    Args:
        model: whose heads choose the class.
    """

    def __init__(self, model: LanguageModel) -> None:
        self._usual, self._of_class = prefix_of(model.family), _class_prefix(model)

    def name(self, ours: str, theirs: str) -> str:
        """Returns the name of a weight, of which the family's map says these two."""
        in_body = theirs.startswith(self._usual) if self._usual else not ours.startswith("heads.")
        return self._of_class + theirs.removeprefix(self._usual) if in_body else theirs

    def is_in_body(self, name: str) -> bool:
        """Whether such a name is of the body, which a head may share, and not of a head of the class."""
        return bool(self._of_class) and name.startswith(self._of_class)


def _class_prefix(model: LanguageModel) -> str:
    """Returns what names of the body begin with in the files of a model's class; empty for the class without a head."""
    name = architecture(model) or ""
    classes = classes_of(model.family)
    bare = [each for each, roles in classes.items() if roles in ((), ("pooler",))]
    return "" if name in bare else class_prefixes_of(model.family).get(name, prefix_of(model.family))


class FileTable:
    """Matches a model's names with those in its files: with or without prefix, `gamma` or `weight`.

    Args:
        where: the folder or file, for messages.
        family: whose prefix the names may have.

    Attributes:
        prefixes: what the names of the body may begin with.
    """

    def __init__(self, where: str, family: str, weights: NamedTensors) -> None:
        self.where = where
        self.weights = weights
        self.prefixes = body_prefixes(family)
        self._all_own = weight_map_of(family) is None
        self._names = {plain_name(name, self.prefixes): name for name in weights.shapes}

    def locate(self, theirs: str) -> str | None:
        """Returns the name in the files, or None."""
        return self._names.get(plain_name(theirs, self.prefixes))

    def sources(self, model: LanguageModel) -> dict[str, tuple[str, Weight]]:
        """Returns, for each parameter that the files have, its name in the files and how to read it."""
        out: dict[str, tuple[str, Weight]] = {}
        parameters = dict(model.named_parameters())
        for ours, theirs, weight in file_names(model):
            name = self.locate(theirs)
            if ours in parameters and name is not None:
                out[ours] = (name, weight)  # of two names the later one is what transformers computes with
        if "embedding.word.weight" not in out and "embedding.word.weight" in parameters:
            self._from_output(model, out)
        return out

    def _from_output(self, model: LanguageModel, sources: dict[str, tuple[str, Weight]]) -> None:
        """Finds the embedding under the name of the output layer, which is tied to it and may be saved instead."""
        tied = [head for head in model.heads.values() if isinstance(head, VocabularyHead)]
        if not any(head.is_tied(model.embedding.word) for head in tied):
            return
        for ours, theirs, weight in file_names(model):
            name = self.locate(theirs)
            if name is not None and ours.startswith("heads.") and ours.endswith(".weight") and weight.alias:
                sources["embedding.word.weight"] = (name, weight)

    def check(self, model: LanguageModel, sources: Mapping[str, tuple[str, Weight]], hint: str = "") -> None:
        """Checks that every weight of the body is there, and that every shape is the configuration's.

        Args:
            hint: why a weight may be missing, where that is known.

        Raises:
            DataError: naming the first that is not.
        """
        for ours, parameter in model.named_parameters():
            if ours not in sources:
                if not ours.startswith("heads."):
                    usual = f"the files are incomplete, or config.json describes another {model.family} than theirs"
                    raise DataError(
                        f"{self.where}: weight {self.expected(model, ours)!r} is missing: "
                        f"{hint or f'{usual} (layers, kind)'}"
                    )
                continue
            name, weight = sources[ours]
            expected, actual = weight.file_shape(parameter, model.config), self.weights.shapes[name]
            if actual != expected:
                raise DataError(
                    f"{self.where}: weight {name!r} has shape {list(actual)}, config.json asks for {list(expected)}; "
                    "the two files are not of the same model"
                )
            if not self.weights.dtypes[name].is_floating_point:
                raise DataError(f"{self.where}: weight {name!r} is {self.weights.dtypes[name]}, expected floats")

    def left_over(self, model: LanguageModel) -> list[str]:
        """Lists names in the files that the model does not have; buffers and copies of tied weights are not counted."""
        own = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        rounded = rounded_tensors(model).keys()
        used = {self.locate(theirs) for ours, theirs, weight in file_names(model) if ours in own or weight.alias}
        return [
            name
            for name in self.weights.shapes
            if name not in used
            and name not in rounded
            and not f".{name}".endswith(_BUFFERS)
            and not name.startswith(OBJECTIVE)
        ]

    def extra_weights(self) -> dict[str, Tensor]:
        """Reads the weights of objectives that stand beside the model's, backed by the files where possible.

        Raises:
            DataError: one that holds no floats, or a value that is not finite.
        """
        out = {name: self.weights.read(name) for name in self.weights.shapes if name.startswith(OBJECTIVE)}
        for name, tensor in out.items():
            if not tensor.is_floating_point() or not tensor.isfinite().all():
                raise DataError(f"{self.where}: weight {name!r} holds something else than finite numbers; damaged")
        return out

    def has_head(self, role: str) -> bool:
        """Tells whether the files may hold a head under our own names; one that shares all weights shows nowhere."""
        return self._all_own or any(name.startswith(f"heads.{role}.") for name in self.weights.shapes)

    def unknown_heads(self, model: LanguageModel) -> dict[str, str]:
        """Lists heads in the files under our own names that the model lacks: role to its first weight."""
        out: dict[str, str] = {}
        for name in self.left_over(model):
            role = _role(name)
            if role is not None and role not in model.heads:
                out.setdefault(role, name)
        return out

    def expected(self, model: LanguageModel, ours: str) -> str:
        """Returns what a weight is called in files, which may lack it."""
        return next((theirs for name, theirs, _ in file_names(model) if name == ours), ours)
