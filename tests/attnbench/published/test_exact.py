"""Published models have the parameters of the authors' to the last one, and their MACs, what is saved itemised."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from attnbench import models
from attnbench.backbone import Backbone

COUNTS: dict[str, Any] = json.loads((Path(__file__).parents[2] / "golden" / "published_models.json").read_text())
CASES = [(name, int(side)) for name in models.names() for side in COUNTS[name]["params"]]


def on_meta(name: str, side: int) -> Backbone:
    with torch.device("meta"):
        model = models.create_model(name, (side, side))
    assert isinstance(model, Backbone)
    return model


def test_every_published_model_has_its_counts() -> None:
    assert {name for name in COUNTS if not name.startswith(("deit", "vit"))} == set(models.names())


@pytest.mark.parametrize(("name", "side"), CASES)
def test_parameters_are_exact_and_the_formula_plus_the_itemised_surplus_is_the_authors_trace(
    name: str, side: int
) -> None:
    model, expected = on_meta(name, side), COUNTS[name]
    assert sum(parameter.numel() for parameter in model.parameters()) == expected["params"][str(side)]
    saved = model.surplus(side, side)
    assert bool(saved) == name.startswith("focal")
    assert model.macs(side, side) + sum(saved.values()) == expected["traced_macs"][str(side)]


@pytest.mark.parametrize("name", ["focal_tiny", "focal_fast_tiny_conv_embed", "swin_tiny", "pvt_tiny", "pvt_v2_b2_li"])
@pytest.mark.parametrize("resolution", [(224, 224), (224, 352), (250, 330)], ids=str)
def test_the_formula_equals_the_trace(name: str, resolution: tuple[int, int]) -> None:
    with torch.device("meta"):
        model = models.create_model(name, resolution)
        images = torch.empty(1, 3, *resolution)
    assert isinstance(model, Backbone)
    with FlopCounterMode(display=False) as counter:
        model.eval()(images)
    assert counter.get_total_flops() == 2 * model.macs(*resolution)
