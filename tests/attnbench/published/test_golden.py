"""Published models compute what the authors' implementations do, to what fp32 arithmetic leaves open."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

import attnbench
from attnbench.published.load import build

OWN = Path(__file__).parents[2] / "golden"
SHARED = Path(__file__).parents[4] / "shared" / "golden"  # beside a developer's checkout: more of the same kind
FILES = {file.stem: file for folder in (SHARED, OWN) for file in sorted(folder.glob("*.safetensors"))}
# Sums of a few hundred products of numbers up to 10, rounded to 24 bits in another order, through five blocks.
TOLERANCE = 2e-5


@dataclass(frozen=True)
class Golden:
    """One file: a model and what it puts out."""

    kind: str
    config: dict[str, Any]
    resolution: tuple[int, int]
    parameters: int
    weights: dict[str, Tensor]
    images: Tensor
    logits: Tensor
    tokens: list[Tensor]


def read(file: Path) -> Golden:
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
        tensors = {key: opened.get_tensor(key).float() for key in opened.keys()}  # noqa: SIM118 (it is no mapping)
    return Golden(
        metadata["kind"],
        json.loads(metadata["config"]),
        (int(metadata["height"]), int(metadata["width"])),
        int(metadata["num_params"]),
        {key.removeprefix("weights."): value for key, value in tensors.items() if key.startswith("weights.")},
        tensors["input"],
        tensors["logits"],
        [tensors[f"stage{stage}_tokens"] for stage in range(1, 5) if f"stage{stage}_tokens" in tensors],
    )


@pytest.fixture(params=FILES)
def golden(request: pytest.FixtureRequest) -> Golden:
    return read(FILES[request.param])


def test_logits_and_stage_tokens_are_the_authors(golden: Golden) -> None:
    model = attnbench.from_published(golden.kind, golden.config, golden.weights, golden.resolution)
    assert not model.training
    with torch.inference_mode():
        torch.testing.assert_close(model(golden.images), golden.logits, atol=TOLERANCE, rtol=0)
        for own, expected in zip(model.stages(golden.images), golden.tokens, strict=False):
            torch.testing.assert_close(own.flatten(1, 2), expected, atol=TOLERANCE, rtol=0)
    assert len(golden.tokens) == (0 if golden.kind == "pvt" else 4)


def test_parameters_and_formula_agree(golden: Golden) -> None:
    with torch.device("meta"):
        model = build(golden.kind, golden.config, golden.resolution)
    assert sum(parameter.numel() for parameter in model.parameters()) == golden.parameters
    assert attnbench.count_macs(model, (3, *golden.resolution)) == model.macs(*golden.resolution)


def test_one_place_of_a_bias_table_would_be_noticed() -> None:
    golden = read(OWN / "focal_padded_256.safetensors")
    key = "layers.0.blocks.0.attn.relative_position_bias_table_to_windows.0"
    changed = golden.weights | {key: golden.weights[key].roll(1, dims=-1)}
    model = attnbench.from_published(golden.kind, golden.config, changed, golden.resolution)
    with torch.inference_mode():
        tokens = model.stages(golden.images)[0].flatten(1, 2)
    assert (tokens - golden.tokens[0]).abs().max() > 1000 * TOLERANCE
