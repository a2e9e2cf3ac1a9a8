"""Weight files: what is read out of them, what is refused, and that no code of theirs is run."""

import argparse
import os
import subprocess
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from attnbench.checkpoints import read
from attnbench.errors import UserError

WEIGHTS = OrderedDict({"norm.weight": torch.arange(3.0), "head.weight": torch.ones(2, 3)})
AVERAGE = {key: tensor + 1 for key, tensor in WEIGHTS.items()}
FORMATS = {"zip": True, "before torch 1.6": False}


def written(path: Path, content: object, **more: Any) -> Path:
    torch.save(content, path, **more)
    return path


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return list(found) == list(expected) and all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    "content",
    [
        WEIGHTS,
        {"model": WEIGHTS},
        {"state_dict": WEIGHTS, "epoch": 3, "optimizer": {"state": {0: {"exp_avg": torch.ones(1)}}}},
        {"model": {"state_dict": WEIGHTS}},
        {"model": {f"module.{key}": tensor for key, tensor in WEIGHTS.items()}},
        {"model": {f"module._orig_mod.{key}": tensor for key, tensor in WEIGHTS.items()}},
        {"model_ema": WEIGHTS},
        {"model": WEIGHTS, "model_ema": AVERAGE},
        {"ema": {"module": WEIGHTS, "updates": 7}},
    ],
    ids=lambda content: "-".join(content),
)
def test_envelopes_are_opened_and_prefixes_dropped(content: object, form: str, tmp_path: Path) -> None:
    path = written(tmp_path / "x.pth", content, _use_new_zipfile_serialization=FORMATS[form])
    assert same(read(path), WEIGHTS)


@pytest.mark.parametrize("key", ["model_ema", "state_dict_ema", "ema"])
def test_the_moving_average_is_taken_on_request(key: str, tmp_path: Path) -> None:
    path = written(tmp_path / "x.pth", {"state_dict": WEIGHTS, key: AVERAGE})
    assert same(read(path, ema=True), AVERAGE)
    assert same(read(path), WEIGHTS)


def test_a_moving_average_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no moving average in it; it holds model, epoch"):
        read(written(tmp_path / "x.pth", {"model": WEIGHTS, "epoch": 1}), ema=True)


def test_a_count_of_averaged_steps_is_no_weight(tmp_path: Path) -> None:
    averaged = {"n_averaged": torch.tensor(3)} | {f"module.{key}": tensor for key, tensor in WEIGHTS.items()}
    assert same(read(written(tmp_path / "x.pth", averaged)), WEIGHTS)


def test_safetensors_are_read(tmp_path: Path) -> None:
    save_file(dict(WEIGHTS), tmp_path / "x.safetensors")
    found = read(tmp_path / "x.safetensors")
    assert same({key: found[key] for key in WEIGHTS}, WEIGHTS)
    assert len(found) == len(WEIGHTS)


class Pickled:
    """Pickles as a call, or as an object of a class that is looked up by name."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.function, self.arguments


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("place", ["model", "optimizer"])
@pytest.mark.parametrize(
    ("function", "arguments"),
    [(os.system, ("touch {}",)), (exec, ("open({!r}, 'w')",)), (subprocess.call, (["touch", "{}"],)), (eval, ("1",))],
    ids=["os.system", "exec", "subprocess.call", "eval"],
)
def test_a_file_whose_unpickling_would_run_code_is_refused_and_runs_none(
    function: Callable[..., object], arguments: tuple[Any, ...], place: str, form: str, tmp_path: Path
) -> None:
    sign = str(tmp_path / "ran")
    filled = [
        [word.format(sign) for word in each] if isinstance(each, list) else each.format(sign) for each in arguments
    ]
    content = {"model": WEIGHTS, place: Pickled(function, *filled)}
    path = written(tmp_path / "x.pth", content, _use_new_zipfile_serialization=FORMATS[form])
    with pytest.raises(UserError, match=r"the file holds more than tensors, .* among it, and only weights are read"):
        read(path)
    assert os.listdir(tmp_path) == ["x.pth"]  # noqa: PTH208 (names are enough)


def test_training_options_of_known_classes_are_passed_over(tmp_path: Path) -> None:
    options = argparse.Namespace(lr=0.1, output=Path("runs") / "a", items={"keys": 1})
    content = {"model": WEIGHTS, "args": options, "best": np.float64(0.8), "history": [Path("x")]}
    assert same(read(written(tmp_path / "x.pth", content)), WEIGHTS)


def test_a_stand_in_is_made_without_importing_the_class(tmp_path: Path) -> None:
    class CfgNode(dict[str, object]):
        pass

    CfgNode.__module__, CfgNode.__qualname__ = "yacs.config", "CfgNode"
    path = tmp_path / "x.pth"
    config = CfgNode(AMP=True, DATA=CfgNode(SIZE=224))
    config.__dict__["__immutable__"] = True
    with pytest.MonkeyPatch.context() as patch:
        module = type(os)("yacs.config")
        module.CfgNode = CfgNode  # type: ignore[attr-defined]
        patch.setitem(__import__("sys").modules, "yacs", type(os)("yacs"))
        patch.setitem(__import__("sys").modules, "yacs.config", module)
        written(path, {"model": WEIGHTS, "config": config})
    assert same(read(path), WEIGHTS)


def test_a_whole_module_is_refused_by_its_class(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"torch\.nn\.modules\.linear\.Linear"):
        read(written(tmp_path / "x.pth", torch.nn.Linear(2, 2)))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.pth", b"", "the file is empty"),
        ("x.safetensors", b"", "the file is empty"),
        ("x.pth", b"<!DOCTYPE html>\n<html>", "text, not weights; it begins with '<!DOCTYPE html>"),
        ("x.pth", b"   \n  ", "text, not weights"),
        ("x.pth", b"\x80\x02\xff\xfe", "truncated, damaged or no checkpoint"),
        ("x.bin", bytes(range(128, 256)), "truncated, damaged or no checkpoint"),
        ("x.safetensors", bytes(range(128, 256)), "truncated, damaged or no safetensors file"),
    ],
)
def test_a_file_that_is_no_checkpoint_is_refused_in_one_line(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as refused:
        read(tmp_path / name)
    assert "\n" not in str(refused.value)
    assert name in str(refused.value)


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("form", [*FORMATS, "safetensors"])
def test_a_truncated_file_is_refused_wherever_it_ends(form: str, kept: float, tmp_path: Path) -> None:
    many = {f"{key}{number}": tensor.clone() for number in range(9) for key, tensor in WEIGHTS.items()}
    path = tmp_path / ("x.safetensors" if form == "safetensors" else "x.pth")
    if form == "safetensors":
        save_file(many, path)
    else:
        written(path, {"model": many}, _use_new_zipfile_serialization=FORMATS[form])
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(UserError, match="truncated, damaged") as refused:
        read(path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.ones(1)], "the file holds a list"),
        ({"epoch": 3, "optimizer": {}}, "'epoch' is no tensor; the file holds epoch, optimizer"),
        ({"model": {}}, "holds no tensors"),
        ({"model": {3: torch.ones(1)}}, "3 is no tensor"),
    ],
    ids=str,
)
def test_a_file_without_weights_by_name_is_refused(content: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        read(written(tmp_path / "x.pth", content))


def test_a_folder_and_a_missing_file_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="that is a folder"):
        read(tmp_path)
    with pytest.raises(UserError, match="there is no such file"):
        read(tmp_path / "x.pth")
