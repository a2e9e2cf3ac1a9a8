"""What several tests of the core need: weights as the authors write them, and the records of a run."""

from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attnbench import products
from attnbench.config import Timing
from attnbench.published.catalogue import Kind
from attnbench.published.keys import theirs
from attnbench.record import Cell, Measurement, Record
from attnbench.store import Store

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


@pytest.fixture(scope="module")
def onednn_everywhere() -> Iterator[None]:
    """Take oneDNN on any processor, for any number of products and tokens, and of weights some at a time."""
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this PyTorch is built without oneDNN")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products, "SERVES_BETTER", True)
        patch.setattr(products, "HAS_AVX512", True)
        patch.setattr(products, "LEAST", 0)
        patch.setattr(products, "LEAST_ROWS", 0)
        yield


ROUNDS = tuple(number for number in range(8) for _ in range(2))
SPREAD = tuple(1 + 0.002 * (number % 5 - 2) for number in range(16))  # of the samples about their median


def _costs(mechanism: str, side: int) -> list[Record]:
    """Cost records of one mechanism: linear in the tokens, focal 1.6 times swin; 4 % of noise at 896, 1 % at 224."""
    share: dict[str, Any] = {"size": "nano", "device": "cpu", "precision": "fp32", "threads": 2, "num_classes": 3}
    cost = side * side / 50176 * (1.6 if mechanism == "focal" else 1.0)
    seconds, half = 0.02 * cost, (0.01 if side == 224 else 0.04)
    latency = Measurement(
        *("latency", seconds, "s", seconds * (1 - half), seconds * (1 + half)),
        samples=tuple(seconds * one for one in SPREAD),
        rounds=ROUNDS,
    )
    timed = {"batch_size": 1, "reference": "focal", "timing": asdict(Timing())}

    def record(probe: Any, *items: Measurement, **more: Any) -> Record:
        cell = Cell(probe, mechanism, resolution=(side, side), **share, **more)
        return Record(cell, "ok", items, {"cpu": "one"}, "2026")

    return [
        record("macs", Measurement("macs", 4e8 * cost, "MAC"), Measurement("parameters", 2e6, "1")),
        record("latency", latency, Measurement("noise_floor", 2 * half, "1"), **timed),
        record("memory_inference", Measurement("peak_memory_inference", 4e6 * cost, "B"), batch_size=1),
        record("memory_training", Measurement("peak_memory_training", 4e7 * cost, "B"), batch_size=1),
    ]


@pytest.fixture
def costs(tmp_path: Path) -> Path:
    """Return the folder of a run without an anchor: two mechanisms at two resolutions, four costs of each."""
    folder = tmp_path / "costs"
    with Store(folder) as store:
        for mechanism in ("focal", "swin"):
            for side in (224, 896):
                for record in _costs(mechanism, side):
                    store.append(record)
    return folder
