"""Chunks: of however many windows each is, outputs and gradients are those of all windows at once."""

from importlib import import_module

import pytest
import torch
from torch import Tensor

import attnbench

boxes = import_module("attnbench.mechanisms._boxes")  # by name: a type checker does not see plug-ins
products = import_module("attnbench.mechanisms._region_products")

IMAGES, HEIGHT, WIDTH, DIM = 5, 21, 28, 16  # 3 x 4 windows an image
WINDOWS = [1, 3, 4, 8, 11, 24, 36, 60]  # parts of rows, rows that do not divide three, images that do not divide five


def attended(name: str, settings: dict[str, str]) -> list[Tensor]:
    """Return what a seeded module makes of seeded maps, in inference and training, and every gradient."""
    torch.manual_seed(0)
    slot = attnbench.Slot(dim=DIM, heads=2, stage=0, block=1, grid=(HEIGHT, WIDTH))
    module = attnbench.MECHANISMS[name].configure(**settings).build(slot)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    x = torch.randn(IMAGES, HEIGHT, WIDTH, DIM, requires_grad=True)
    weight = torch.randn(IMAGES, HEIGHT, WIDTH, DIM)
    with torch.inference_mode():
        inferred = module.eval()(x)
    out = module.train()(x)
    return [inferred, out.detach(), *torch.autograd.grad((out * weight).sum(), [x, *module.parameters()])]


@pytest.mark.parametrize(
    ("name", "settings", "keys"),
    [("swin", {}, 7**2), ("focal", {}, 13**2 + 7**2), ("focal", {"border": "wrapped"}, 13**2 + 7**2)],
)
@pytest.mark.parametrize("windows", WINDOWS)
@pytest.mark.parametrize("written_out", [True, False])
def test_chunks_change_nothing(
    monkeypatch: pytest.MonkeyPatch, name: str, settings: dict[str, str], keys: int, windows: int, written_out: bool
) -> None:
    monkeypatch.setattr(products, "FEW_QUERIES", 10**6 if written_out else 0)
    monkeypatch.setattr(products, "MANY_SCORES", 0)
    monkeypatch.setattr(boxes, "CHUNK", 2**40)
    expected = attended(name, settings)
    monkeypatch.setattr(boxes, "CHUNK", windows * keys * 2 * DIM * 4)  # bytes of their keys and values
    for actual, wanted in zip(attended(name, settings), expected, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=0, atol=2e-6 * float(wanted.abs().max()))
