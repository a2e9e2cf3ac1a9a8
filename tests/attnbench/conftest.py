"""What several tests of the core need: weights as the authors write them."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from attnbench.published.catalogue import Kind
from attnbench.published.keys import theirs

AsPublished = Callable[[Kind, nn.Module], dict[str, Tensor]]


@pytest.fixture(scope="session")
def as_published() -> AsPublished:
    """Return a function from a kind and a model to the model's weights under the authors' keys."""

    def convert(kind: Kind, model: nn.Module) -> dict[str, Tensor]:
        state = model.state_dict()
        found = {theirs(kind, name): tensor for name, tensor in state.items() if name != "class_position"}
        for name, tensor in state.items():
            if name.startswith("positions."):
                found[theirs(kind, name)] = tensor.flatten(1, 2)
        if "class_position" in state:
            found["pos_embed4"] = torch.cat([state["class_position"], found["pos_embed4"]], dim=1)
        return found

    return convert
