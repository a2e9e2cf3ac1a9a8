"""The heads of segmentation: published counts, shapes, gradients."""

import importlib
from typing import Any

import pytest
import torch

from attnbench.errors import UnsupportedError, UserError

# By string: a type checker cannot see that tasks/ is installed as attnbench.tasks.
Segmentation: Any = importlib.import_module("attnbench.tasks.segmentation").Segmentation

NANO = (32, 64, 128, 256)
HEADS = ("upernet", "semantic_fpn")


def maps(channels: tuple[int, ...], batch: int, rows: int, columns: int, device: str = "cpu") -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [
        torch.randn(batch, -(rows // -stride), -(columns // -stride), dim, device=device)
        for dim, stride in zip(channels, (4, 8, 16, 32), strict=True)
    ]


def parameters(channels: tuple[int, ...], name: str) -> int:
    with torch.device("meta"):
        return sum(item.numel() for item in Segmentation.head(channels, 150, name).parameters())


@pytest.mark.parametrize(
    ("backbone", "channels", "published"),
    [  # in millions: backbone without classifier, and the whole with UperNet (arXiv 2103.14030, table 3)
        (27.52, (96, 192, 384, 768), 60),
        (48.84, (96, 192, 384, 768), 81),
        (86.74, (128, 256, 512, 1024), 121),
        (194.99, (192, 384, 768, 1536), 234),
    ],
)
def test_swin_with_upernet_has_the_published_parameters(
    backbone: float, channels: tuple[int, ...], published: int
) -> None:
    assert round(backbone + parameters(channels, "upernet") / 1e6) == published


@pytest.mark.parametrize(
    ("backbone", "published"),
    [(13.23, 17.0), (24.49, 28.2), (44.21, 48.0), (61.36, 65.1)],  # arXiv 2102.12122, tables 2 and 5
)
def test_pvt_with_semantic_fpn_has_the_published_parameters(backbone: float, published: float) -> None:
    classifier = 513_000  # of 1,000 classes on 512 channels, which PVT's backbones are counted with
    found = backbone - classifier / 1e6 + parameters((64, 128, 320, 512), "semantic_fpn") / 1e6
    assert found == pytest.approx(published, abs=0.05)


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize(("rows", "columns"), [(64, 96), (52, 36), (33, 130)])
def test_logits_are_at_the_first_stages_grid_on_meta_too(name: str, rows: int, columns: int) -> None:
    grid = (-(rows // -4), -(columns // -4))
    head = Segmentation.head(NANO, 5, name)
    assert head(maps(NANO, 2, rows, columns)).shape == (2, 5, *grid)
    found = head.to("meta").eval()(maps(NANO, 1, rows, columns, "meta"))
    assert (found.shape, found.device.type) == ((1, 5, *grid), "meta")


@pytest.mark.parametrize("name", HEADS)
def test_costs_leave_out_the_auxiliary_head_and_nothing_else(name: str) -> None:
    head = Segmentation.head(NANO, 5, name).eval()
    inputs = maps(NANO, 2, 64, 64)
    main, auxiliary = head.train_logits(inputs)
    assert torch.equal(head(inputs), main)
    assert auxiliary is None if name == "semantic_fpn" else auxiliary.shape == (2, 5, 4, 4)


@pytest.mark.parametrize("name", HEADS)
def test_gradients_reach_every_parameter(name: str) -> None:
    head = Segmentation.head(NANO, 5, name)
    outputs = [item for item in head.train_logits(maps(NANO, 4, 64, 64)) if item is not None]
    torch.stack([(item * torch.randn_like(item)).sum() for item in outputs]).sum().backward()
    assert [key for key, item in head.named_parameters() if item.grad is None or not item.grad.any()] == []


@pytest.mark.parametrize("name", HEADS)
def test_maps_are_normalised_first(name: str) -> None:
    head = Segmentation.head(NANO, 5, name).double().eval()
    inputs = [item.double() for item in maps(NANO, 2, 64, 64)]
    scaled = head([7 * item + 3 for item in inputs])
    torch.testing.assert_close(scaled, head(inputs), rtol=1e-4, atol=1e-4)  # up to the norm's epsilon


@pytest.mark.parametrize("name", HEADS)
def test_images_do_not_see_one_another_outside_training(name: str) -> None:
    head = Segmentation.head(NANO, 5, name).double().eval()
    inputs = [item.double() for item in maps(NANO, 2, 64, 64)]
    torch.testing.assert_close(head(inputs)[1:], head([item[1:] for item in inputs]), rtol=1e-10, atol=1e-10)


def test_upernet_refuses_to_train_on_one_image_and_says_what_can() -> None:
    head = Segmentation.head(NANO, 5, "upernet")
    with pytest.raises(UnsupportedError, match="two or more, or semantic_fpn"):
        head(maps(NANO, 1, 64, 64))
    assert head.eval()(maps(NANO, 1, 64, 64)).shape == (1, 5, 16, 16)
    assert Segmentation.head(NANO, 5, "semantic_fpn").train()(maps(NANO, 1, 64, 64)).shape == (1, 5, 16, 16)


def test_the_first_head_is_the_default_and_others_are_refused() -> None:
    assert type(Segmentation.head(NANO, 5)) is type(Segmentation.head(NANO, 5, Segmentation.heads[0]))
    with pytest.raises(UserError, match="did you mean 'upernet'"):
        Segmentation.head(NANO, 5, "uppernet")
    with pytest.raises(UserError, match="did you mean 'upernet'"):
        Segmentation(None, "uppernet")
