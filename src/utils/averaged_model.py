"""The model of a group: all its members, whose outputs are averaged."""

import sys
from collections.abc import Sequence
from typing import Any

from src.utils.errors import UserError

import numpy as np


class AveragedModel:
    """Several models as one; its output is the mean of theirs.

    A module of torch is called with the inputs; of any other model, `predict` is. Outputs are averaged as
    they are, so that logits remain logits. Classifiers like those of scikit-learn predict the class whose
    mean probability is highest.
    """

    def __init__(self, members: Sequence[Any]) -> None:
        self.members = list(members)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The mean of the members' outputs."""
        if hasattr(self.members[0], "classes_"):
            return self.members[0].classes_[self.predict_proba(*args, **kwargs).argmax(axis=1)]
        calls = [one if _is_network(one) else one.predict for one in self.members]
        return mean_output([call(*args, **kwargs) for call in calls])

    predict = __call__

    def predict_proba(self, *args: Any, **kwargs: Any) -> np.ndarray:
        """The mean of the members' probabilities [N, K], if they are such classifiers.

        Raises:
            UserError: the members have seen different classes.
        """
        first = self.members[0].classes_
        if not all(np.array_equal(first, one.classes_) for one in self.members):
            raise UserError("the members have seen different classes: call each one of .members")
        parts = [one.predict_proba(*args, **kwargs) for one in self.members]
        return np.asarray(np.mean(parts, axis=0))

    def __repr__(self) -> str:
        return f"AveragedModel({len(self.members)} of {type(self.members[0]).__name__})"


def _is_network(model: Any) -> bool:
    torch = sys.modules.get("torch")  # whoever has made a network has imported it
    return torch is not None and isinstance(model, torch.nn.Module)


def mean_output(outputs: Sequence[Any]) -> Any:
    """The mean of tensors, of containers of tensors, or of what NumPy takes."""
    if "torch" not in sys.modules:
        return np.mean(outputs, axis=0)
    import torch
    from torch.utils._pytree import tree_leaves, tree_map

    def mean(*parts: Any) -> Any:
        return torch.stack(parts).mean(0) if isinstance(parts[0], torch.Tensor) else parts[0]

    if any(isinstance(leaf, torch.Tensor) for leaf in tree_leaves(outputs[0])):
        return tree_map(mean, *outputs)
    return np.mean(outputs, axis=0)
