"""``attnbench eval``: it prints the accuracy that the papers' evaluation gives, and refuses what does not work."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.datasets import ImageFolder
from torchvision.transforms import InterpolationMode, v2

import attnbench
from attnbench import models
from attnbench.errors import UserError
from attnbench.eval_command import add_parser
from attnbench.evaluation import Preprocessing, evaluate, find_images, preprocessing_of
from attnbench.published.catalogue import MODELS, Kind, Published

AsPublished = Callable[[Kind, nn.Module], dict[str, Tensor]]
CLASSES = ["ant", "bee", "cat", "dog", "eel", "fox"]
EACH = 3


def command(*words: object) -> int:
    """Run the command as the command line does, in this process."""
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    options = parser.parse_args(["eval", *map(str, words)])
    code: int = options.function(options)
    return code


def painted(folder: Path, classes: list[str], each: int = EACH) -> Path:
    """Fill ``folder`` with noise around a colour per class, landscape and portrait."""
    random = np.random.default_rng(0)
    for name in classes:
        (folder / name).mkdir(parents=True)
        colour = random.integers(0, 200, 3)
        for number in range(each):
            pixels = colour + random.integers(0, 56, (70 + 20 * number, 90, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    painted(folder / "val", CLASSES)
    return folder


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    made = models.create_model("pvt_v2_b0", (64, 64), len(CLASSES)).eval()
    nn.init.normal_(made.get_parameter("head.fc.weight"), std=1.0)
    return made


@pytest.fixture(scope="module")
def weights(model: nn.Module, as_published: AsPublished, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "pvt_v2_b0.pth"
    torch.save({"model": as_published("pvt_v2", model), "epoch": 300}, path)
    return path


def expected(model: nn.Module, folder: Path, resolution: int) -> tuple[float, float]:
    """Return top-1 and top-5 by torchvision's own folder and transforms, image by image."""
    transform = v2.Compose(
        [
            v2.Resize(resolution * 8 // 7, InterpolationMode.BICUBIC),
            v2.CenterCrop(resolution),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    images = ImageFolder(str(folder), transform)
    with torch.inference_mode():
        orders = [(model(image[None])[0].argsort(descending=True).tolist(), label) for image, label in images]
    first = sum(order[0] == label for order, label in orders)
    fifth = sum(label in order[:5] for order, label in orders)
    return first / len(orders), fifth / len(orders)


@pytest.mark.parametrize("resolution", [64, 90])
def test_the_accuracy_is_that_of_torchvisions_own_folder_and_transforms(
    resolution: int, data: Path, weights: Path, model: nn.Module, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--model", "pvt_v2_b0", "--weights", weights, "--data", data, "--res", resolution, "--batch-size", 4)
    assert command(*words, "--json") == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    top1, top5 = expected(model, data / "val", resolution)
    assert 0 < top5 < 1
    assert found.pop("throughput_img_per_s") > 0
    assert found == {
        "model": "pvt_v2_b0",
        "weights": str(weights),
        "resolution": [resolution, resolution],
        "images": EACH * len(CLASSES),
        "top1": top1,
        "top5": top5,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "adapted": [],
    }
    assert printed.err.splitlines()[-1] == "attnbench: 18 of 18 images"
    assert len(printed.err.splitlines()) == 5


def test_a_folder_of_classes_needs_no_val_and_workers_change_nothing(
    data: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--model", "pvt_v2_b0", "--weights", weights, "--res", 64, "--json")
    command(*words, "--data", data)
    first = json.loads(capsys.readouterr().out)
    command(*words, "--data", data / "val", "--workers", 1)
    again = json.loads(capsys.readouterr().out)
    assert [first[key] for key in ("images", "top1", "top5")] == [again[key] for key in ("images", "top1", "top5")]


def test_the_text_says_what_was_evaluated_and_adapted(
    as_published: AsPublished, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = models.configuration("pvt_tiny") | {"depths": [1, 1, 1, 1]}
    monkeypatch.setitem(MODELS, "shallow", Published("pvt", config))
    given = as_published("pvt", models.create_model("shallow", (64, 64), 3))
    save_file({key: tensor.contiguous() for key, tensor in given.items()}, tmp_path / "x.safetensors")
    painted(tmp_path / "data", CLASSES[:3], each=1)
    words = ("--model", "shallow", "--weights", tmp_path / "x.safetensors", "--data", tmp_path / "data")
    assert command(*words, "--res", 96) == 0
    lines = [(line[:10].strip(), line[12:]) for line in capsys.readouterr().out.splitlines()]
    text = dict(lines)
    assert text["resolution"] == "96 x 96 pixels: the centre, 0.875 of the shorter side, bicubic"
    assert text["images"] == "3 of 3 classes"
    assert text["top-1"] in ("0.00 %", "33.33 %", "66.67 %", "100.00 %")
    assert text["top-5"] == "-"
    sides = [(16, 24), (8, 12), (4, 6), (2, 3)]
    assert [told for name, told in lines if name == "adapted"] == [
        f"pos_embed{stage}: from {old} x {old} to {new} x {new} tokens" for stage, (old, new) in enumerate(sides, 1)
    ]


def test_the_moving_average_is_evaluated_on_request(
    data: Path, weights: Path, model: nn.Module, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = torch.load(weights, weights_only=True)["model"]
    mirrored = plain | {"head.weight": -plain["head.weight"], "head.bias": -plain["head.bias"]}
    torch.save({"model": mirrored, "model_ema": plain}, tmp_path / "x.pth")
    words = ("--model", "pvt_v2_b0", "--weights", tmp_path / "x.pth", "--data", data, "--res", 64, "--json")
    command(*words, "--ema")
    assert json.loads(capsys.readouterr().out)["top5"] == expected(model, data / "val", 64)[1]
    command(*words)
    assert json.loads(capsys.readouterr().out)["top5"] != expected(model, data / "val", 64)[1]


def test_timm_models_bring_their_own_preprocessing_and_change_their_resolution_themselves(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = timm.create_model("test_vit", num_classes=len(CLASSES))
    torch.save(made.state_dict(), tmp_path / "x.pth")
    words = ("--model", "timm:test_vit", "--weights", tmp_path / "x.pth", "--data", data, "--json")
    command(*words, "--res", 160)
    assert json.loads(capsys.readouterr().out)["adapted"] == []
    command(*words, "--res", 192)
    found = json.loads(capsys.readouterr().out)
    assert found["adapted"] == ["what depends on the resolution, by timm: from 160 x 160 to 192 x 192 pixels"]
    assert preprocessing_of(made, (160, 160)) == Preprocessing((160, 160), 0.95, (0.5,) * 3, (0.5,) * 3, "bicubic")
    with pytest.raises(UserError, match=r"do not fit timm:test_vit2; missing: .*"):
        command(*(word if word != "timm:test_vit" else "timm:test_vit2" for word in words))


def test_weights_of_our_own_runs_are_evaluated_too(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = attnbench.build_model("swin", "nano", resolution=(64, 64), num_classes=len(CLASSES)).eval()
    save_file(made.state_dict(), tmp_path / "x.safetensors")
    words = ("--model", "uniform:swin_nano", "--weights", tmp_path / "x.safetensors", "--data", data)
    command(*words, "--res", 64, "--json")
    found = json.loads(capsys.readouterr().out)
    assert (found["top1"], found["top5"]) == expected(made, data / "val", 64)


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (333, 500), (60, 61), (256, 256)])
@pytest.mark.parametrize("resolution", [64, 224, 256])
def test_a_square_input_is_torchvisions_resize_and_centre_crop(size: tuple[int, int], resolution: int) -> None:
    height, width = size
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)
    image = Image.fromarray(pixels)
    cut = v2.CenterCrop(resolution)(v2.Resize(resolution * 8 // 7, InterpolationMode.BICUBIC)(image))
    plain = Preprocessing((resolution, resolution), 0.875, (0.0,) * 3, (1.0,) * 3)
    found = (plain.apply(image) * 255).round().to(torch.uint8)
    assert torch.equal(found, v2.functional.pil_to_tensor(cut))


@pytest.mark.parametrize("resolution", [(64, 128), (128, 64), (100, 90)])
@pytest.mark.parametrize("size", [(500, 375), (375, 500), (30, 900)])
def test_an_oblong_input_is_cut_from_the_smallest_image_that_holds_it(
    resolution: tuple[int, int], size: tuple[int, int]
) -> None:
    found = Preprocessing(resolution, 0.875).size(*size)
    least = tuple(side * 8 // 7 for side in resolution)
    assert found[0] >= least[0]
    assert found[1] >= least[1]
    assert found[0] == least[0] or found[1] == least[1]
    assert found[0] * size[1] == pytest.approx(found[1] * size[0], rel=0.05)


def test_from_384_pixels_up_the_whole_image_is_seen() -> None:
    assert preprocessing_of(nn.Identity(), (383, 383)).crop == 0.875
    assert preprocessing_of(nn.Identity(), (384, 384)).crop is None
    halves = np.zeros((100, 200, 3), np.uint8)
    halves[:, :8] = 255  # a stripe that any cut would lose
    seen = preprocessing_of(nn.Identity(), (384, 384)).apply(Image.fromarray(halves))
    assert seen.shape == (3, 384, 384)
    assert (seen[0, :, :8] > 2).all()


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_every_picture_is_read_as_rgb(mode: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (40, 40), (200, 30, 30)).convert(mode).save(tmp_path / name / "x.tiff")
    seen: list[Tensor] = []

    class Watch(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            seen.append(images)
            return torch.eye(2)

    images = find_images(tmp_path)
    found = evaluate(Watch(), images, Preprocessing((32, 32), 0.875), torch.device("cpu"), 2, 0, lambda _done: None)
    assert seen[0].shape == (2, 3, 32, 32)
    assert (found.top1, found.top5) == (1.0, None)


def test_logits_that_are_no_numbers_are_wrong_and_nothing_else_is_no_accuracy(data: Path) -> None:
    class Nothing(nn.Module):
        numbers = 1  # images of a batch with an answer, the first class

        def forward(self, images: Tensor) -> Tensor:
            logits = torch.full((len(images), len(CLASSES)), float("nan"))
            logits[: self.numbers] = -torch.arange(float(len(CLASSES)))
            return logits

    done: list[int] = []
    preprocessing, model = Preprocessing((32, 32), 0.875), Nothing()
    found = evaluate(model, find_images(data), preprocessing, torch.device("cpu"), 7, 0, done.append)
    assert (found.top1, found.top5) == (1 / 18, 3 / 18)  # images 0, 7 and 14, of classes 0, 2 and 4
    assert done == [7, 14, 18]
    model.numbers = 0
    with pytest.raises(UserError, match="nothing but NaN"):
        evaluate(model, find_images(data), preprocessing, torch.device("cpu"), 7, 0, done.append)


def test_a_limit_takes_images_of_all_classes(data: Path) -> None:
    whole = find_images(data)
    assert [label for _, label in whole.files] == sorted(list(range(6)) * EACH)
    assert whole.classes == tuple(CLASSES)
    assert [label for _, label in find_images(data, 6).files] == list(range(6))
    assert find_images(data, 100) == whole


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_cannot_be_read_is_named(workers: int, tmp_path: Path, weights: Path) -> None:
    painted(tmp_path, CLASSES, each=1)
    whole = (tmp_path / "dog" / "0.png").read_bytes()
    (tmp_path / "dog" / "0.png").write_bytes(whole[:500])
    words = ("--model", "pvt_v2_b0", "--weights", weights, "--data", tmp_path, "--res", 32, "--workers", workers)
    with pytest.raises(UserError, match=r"cannot read '.*dog.0\.png': ") as refused:
        command(*words)
    assert "\n" not in str(refused.value)


def test_data_with_another_number_of_classes_are_refused(tmp_path: Path, weights: Path) -> None:
    painted(tmp_path, CLASSES[:4], each=1)
    with pytest.raises(UserError, match=r"the weights tell 6 classes apart, but .* holds 4"):
        command("--model", "pvt_v2_b0", "--weights", weights, "--data", tmp_path)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ([], "holds no class folder"),
        (["x.png"], "holds no class folder"),
        (["train/ant/x.png"], "a folder 'train' and none 'val'"),
        (["val/x.png"], "val' holds no class folder"),
        (["val/ant/x.png", "val/bee/x.txt"], "no valid file for the classes bee"),
    ],
    ids=str,
)
def test_a_folder_that_is_not_laid_out_as_classes_is_refused(made: list[str], message: str, tmp_path: Path) -> None:
    for name in made:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(UserError, match=message):
        find_images(tmp_path)


def test_hidden_folders_are_no_classes(tmp_path: Path) -> None:
    painted(tmp_path, ["ant", "bee", ".cache"], each=1)
    assert find_images(tmp_path).classes == ("ant", "bee")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"--model": "pvt_v2_b9"}, "did you mean 'pvt_v2_b"),
        ({"--model": "timm:tset_vit"}, "timm has no model"),
        ({"--model": "uniform:swn_tiny"}, "uniform:<mechanism>_<size>"),
        ({"--model": "swin_tiny"}, r"do not fit this swin model; missing: .*; they are weights of pvt_v2_b0"),
        ({"--weights": "nowhere.pth"}, "there is no such file"),
        ({"--data": "nowhere"}, "does not exist"),
        ({"--res": "224x"}, "neither N nor HxW"),
        ({"--res": "16"}, "under 32"),
        ({"--device": "cuda:77"}, "cuda:77"),
        ({"--batch-size": "0"}, "--batch-size must be at least 1"),
        ({"--workers": "-1"}, "--workers must be at least 0"),
        ({"--threads": "0"}, "--threads must be at least 1"),
        ({"--limit": "0"}, "--limit must be at least 1"),
    ],
    ids=str,
)
def test_what_does_not_work_is_refused_in_one_line(
    flags: dict[str, str], message: str, data: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = {"--model": "pvt_v2_b0", "--weights": str(weights), "--data": str(data)} | flags
    with pytest.raises(UserError, match=message) as refused:
        command(*(word for pair in words.items() for word in pair))
    assert "\n" not in str(refused.value)
    assert capsys.readouterr().out == ""
