"""Collects what objectives and tasks learn beside the model: saved with it, or declared transient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from pretune.models.model import LanguageModel
from pretune.objectives.objective import Objective


@dataclass(frozen=True)
class OwnWeights:
    """The parameters that objectives train and that are no part of the model.

    Attributes:
        saved: by their name in the model's files, `objective.<name>.<parameter>`.
        transient: by the same names; they serve training alone.
    """

    saved: dict[str, nn.Parameter] = field(default_factory=dict)
    transient: dict[str, nn.Parameter] = field(default_factory=dict)

    @classmethod
    def of(cls, model: LanguageModel, members: Sequence[Objective]) -> OwnWeights:
        """Those of some objectives; the models that they train along have folders of their own.

        Args:
            members: after `setup`.
        """
        own = cls()
        for member in members:
            transient = (*member.transient,)
            auxiliary = [p for other in member.auxiliary_models().values() for p in other.parameters()]
            elsewhere = {id(p) for p in [*model.parameters(), *auxiliary]}
            for name, parameter in member.named_parameters():
                if parameter.requires_grad and id(parameter) not in elsewhere:
                    is_transient = any(name == part or name.startswith(f"{part}.") for part in transient)
                    kept = own.transient if is_transient else own.saved
                    kept[f"objective.{member.name}.{name}"] = parameter
        return own

    @torch.no_grad()
    def restore(self, model: LanguageModel) -> list[str]:
        """Take over what the model's files hold of these parameters.

        Returns:
            Names of those that the files lack or hold in another shape, where they hold some.
        """
        missing: list[str] = []
        for name, parameter in self.saved.items():
            weight = model.extra_weights.get(name)
            if weight is not None and weight.shape == parameter.shape:
                parameter.copy_(weight)
            elif model.extra_weights:
                missing.append(name)
        return missing

    def store(self, model: LanguageModel) -> None:
        """Put the parameters that are saved where saving the model finds them."""
        model.extra_weights = {name: parameter.detach().cpu() for name, parameter in self.saved.items()}

    def names_in(self, root: nn.Module) -> dict[str, str]:
        """The names of the saved parameters in a root module and its checkpoints, by those in a model's files."""
        names = {id(parameter): name for name, parameter in root.named_parameters()}
        return {ours: names[id(parameter)] for ours, parameter in self.saved.items() if id(parameter) in names}

    def notes(self) -> list[str]:
        """What the user should know: which parameters beside the model's are saved, and which are not."""
        sentences = []
        if self.saved:
            sentences.append(f"saved with the model: {', '.join(self.saved)}")
        if self.transient:
            sentences.append(f"not saved, because they serve training alone: {', '.join(self.transient)}")
        return sentences
