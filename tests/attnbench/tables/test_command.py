"""``attnbench table``: what it prints and writes, and how it refuses."""

import argparse
import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from attnbench import eval_command, models
from attnbench.errors import UserError
from attnbench.published.catalogue import Kind
from attnbench.table_command import add_parser, run_table
from attnbench.tables.build import NAMES
from attnbench.tables.measured import Interval, Key, Resolution


def options(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    return parser.parse_args(["table", *words])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["imagnet"], "unknown table 'imagnet'; did you mean 'imagenet'"),
        (["imagenet", "--models", "focal_tyny"], "unknown model 'focal_tyny'; did you mean 'focal_tiny'"),
        (["imagenet", "--models", "focal_tiny,,"], "is not a list separated by commas"),
        (["imagenet", "--models", "timm:resnet5000"], "timm has no model"),
        (["imagenet", "--res", "banana"], "resolution 'banana' is neither N nor HxW"),
        (["imagenet", "--format", "latx"], "unknown format 'latx'; did you mean 'latex'"),
        (["imagenet", "--json", "--format", "csv"], "exclude each other"),
        (["coco", "--res", "224"], "has no resolutions to choose from"),
        (["coco", "--models", "focal_fast_tiny_conv_embed"], "table coco has no row for focal_fast_tiny_conv_embed"),
        (["imagenet", "--out", "no/such/folder/file"], "no file in an existing folder"),
        (["imagenet", "--weights", "swin_tiny=x"], "--weights and --data go together"),
        (["imagenet", "--data", "x"], "--weights and --data go together"),
        (["coco", "--weights", "swin_tiny=x", "--data", "y"], "table coco has no accuracy"),
        (["imagenet", "--weights", "swin_tiny", "--data", "y"], "is not NAME=FILE"),
        (["imagenet", "--weights", "swn_tiny=x", "--data", "y"], "did you mean 'swin_tiny'"),
    ],
)
def test_a_wrong_word_is_refused_in_one_line_and_nothing_is_printed(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError) as refused:
        run_table(options(*words))
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
    assert capsys.readouterr().out == ""


def test_accuracy_is_that_of_eval_where_weights_and_data_are_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], as_published: Callable[[Kind, nn.Module], dict[str, Tensor]]
) -> None:
    torch.manual_seed(0)
    weights = as_published("pvt_v2", models.create_model("pvt_v2_b0", num_classes=2))
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, tmp_path / "b0.safetensors")
    for colour in ("black", "white"):
        (tmp_path / "val" / colour).mkdir(parents=True)
        for index in range(3):
            Image.new("RGB", (40 + 8 * index, 48), colour).save(tmp_path / "val" / colour / f"{index}.png")
    given = ["--weights", f"pvt_v2_b0={tmp_path / 'b0.safetensors'}", "--data", str(tmp_path)]
    words = ["imagenet", "--models", "pvt_v2_b0", "--res", "64", *given, "--json"]
    assert run_table(options(*words)) == 0
    (table,) = json.loads(capsys.readouterr().out)
    (found,) = [record for record in table["records"] if record["quantity"] == "top-1"]
    parser = argparse.ArgumentParser()
    eval_command.add_parser(parser.add_subparsers())
    evaluated = ["eval", "--model", "pvt_v2_b0", *given, "--res", "64", "--json"]
    evaluated[evaluated.index("--weights") + 1] = str(tmp_path / "b0.safetensors")
    eval_command.run_eval(parser.parse_args(evaluated))
    assert float(found["measured"]) == pytest.approx(100 * json.loads(capsys.readouterr().out)["top1"])


@pytest.mark.parametrize("name", ["configs", "throughput", "detectors"])
@pytest.mark.parametrize("form", ["terminal", "markdown", "csv", "latex"])
def test_a_table_without_costs_is_printed_at_once(name: str, form: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_table(options(name, "--format", form)) == 0
    assert "Swin-Tiny" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "model"), [("coco", "PVTv2-B1"), ("ade20k", "PVTv2-B1")])
@pytest.mark.parametrize("form", ["terminal", "markdown", "csv", "latex"])
def test_a_table_of_tasks_has_measured_costs_in_every_format(
    name: str, model: str, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_table(options(name, "--models", "pvt_v2_b1", "--format", form)) == 0
    printed = capsys.readouterr().out
    assert model in printed
    assert "reproduces" in printed


def test_the_table_of_two_models_is_measured_and_written_as_csv(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "table.csv"
    words = ("imagenet", "--models", "swin_tiny,pvt_v2_b0", "--format", "csv", "--out", str(file))
    assert run_table(options(*words)) == 0
    assert capsys.readouterr().out == ""
    lines = list(csv.DictReader(io.StringIO(file.read_text(encoding="utf-8"))))
    measured = {(line["model"], line["quantity"]): line["measured"] for line in lines}
    assert measured["swin_tiny", "params"] == "28.288354"
    assert measured["pvt_v2_b0", "MACs"] == "0.566065664"
    assert measured["swin_tiny", "top-1"] == "not measured"


def test_the_tables_models_are_measured_at_the_resolutions_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_table(options("imagenet", "--models", "swin_tiny", "--res", "448", "--json")) == 0
    (found,) = json.loads(capsys.readouterr().out)
    macs = [record["measured"] for record in found["records"] if record["quantity"] == "MACs"]
    assert macs == [pytest.approx(17.959962624)]


def test_the_timing_is_asked_once_and_its_ratios_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[object] = []

    def timing(models: Sequence[str], resolutions: Sequence[Resolution]) -> dict[Key, Interval]:
        asked.append((models, resolutions))
        return {("focal_tiny", (224, 224)): Interval(2.4, 2.3, 2.5)}

    words = ("throughput", "--models", "focal_tiny,cvt_13", "--res", "224,448", "--json")
    assert run_table(options(*words), timing) == 0
    assert asked == [(("swin_tiny", "focal_tiny"), ((224, 224), (448, 448)))]
    (found,) = json.loads(capsys.readouterr().out)
    ratios = [r for r in found["records"] if r["quantity"] == "ratio to Swin-T" and r["row"] == "Focal-Tiny, 224x224"]
    assert {record["measured"] for record in ratios} == {1 / 2.4}
    assert {record["verdict"] for record in ratios} == {"reproduces"}


def test_a_terminal_table_in_a_file_has_no_colours(tmp_path: Path) -> None:
    file = tmp_path / "coco.txt"
    assert run_table(options("coco", "--models", "pvt_v2_b1", "--out", str(file))) == 0
    assert "\x1b" not in file.read_text(encoding="utf-8")


def test_the_help_names_every_table() -> None:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers()
    add_parser(commands)
    text = commands.choices["table"].format_help()
    assert all(name in text for name in NAMES)


@pytest.mark.parametrize(
    "module", ["attnbench.table_command", "attnbench.tables.build", "attnbench.published.reported"]
)
def test_parsing_and_reported_numbers_import_no_torch_and_no_pandas(module: str) -> None:
    code = f"import sys, {module}; print([name for name in ('torch', 'pandas', 'timm', 'rich') if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
