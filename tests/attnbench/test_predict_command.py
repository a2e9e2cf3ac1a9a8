"""The command, run in process on small models."""

import json
from typing import Any

import pytest

from attnbench.cli import main
from attnbench.errors import UserError
from attnbench.predict_command import parse_resolutions

PIB = "1024TiB"


def predicted(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> dict[str, Any]:
    assert main(["predict", "--json", *words]) == code
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("224", [(224, 224)]),
        ("224..1792", [(224, 224), (448, 448), (896, 896), (1792, 1792)]),
        ("224..1000,64x96", [(224, 224), (448, 448), (896, 896), (64, 96)]),
        ("64x96..256x384", [(64, 96), (128, 192), (256, 384)]),
        ("224..224", [(224, 224)]),
    ],
)
def test_a_range_doubles_up_to_its_end(text: str, expected: list[tuple[int, int]]) -> None:
    assert list(parse_resolutions(text)) == expected


@pytest.mark.parametrize("text", ["448..224", "224..", "..224", "224,,448", "16", "224..448,448", "1..64"])
def test_what_is_no_list_of_resolutions_is_refused(text: str) -> None:
    with pytest.raises(UserError):
        parse_resolutions(text)


def test_a_batch_runs_out_where_its_total_passes_the_limit(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--mechanisms", "full", "--res", "64,32", "--batch-size", "2")
    free = predicted(capsys, *words, "--memory-limit", PIB)
    totals = {tuple(item["resolution"]): item["training"]["total_B"] for item in free["forecasts"]}
    assert free["runs_out_at"] == {"full": {"inference": None, "training": None}}
    tight = predicted(capsys, *words, "--memory-limit", str(totals[64, 64] - 1))
    assert tight["runs_out_at"]["full"]["training"] == [64, 64]
    for item in tight["forecasts"]:
        training = item["training"]
        assert (
            training["fits"] == (training["largest_batch_size"] >= 2) == (training["total_B"] <= tight["memory_limit"])
        )
        assert item["arithmetic_intensity_FLOP_per_B"] == 2 * item["macs"] * 2 / item["inference"]["traffic_B"]
        assert item["inference"]["total_B"] < training["total_B"]
        assert training["process_rss_B"] > training["peak_B"]
    assert {item["training"]["kernel"] for item in tight["forecasts"]} == {"flash"}


def test_what_cannot_be_predicted_is_a_row_and_the_others_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--models", "timm:test_vit", "--batch-size", "1", "--memory-limit", PIB, "--sdpa", "math")
    found = predicted(capsys, *words, "--res", "40,160", code=1)
    refused, fine = found["forecasts"]
    assert "divisible by patch size" in refused["reason"]
    assert (refused["macs"], refused["inference"], fine["reason"]) == (None, None, None)
    assert {fine[step]["kernel"] for step in ("inference", "training")} == {"math"}


def test_the_table_says_kernel_limit_and_where_it_runs_out(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    assert main(["predict", "--mechanisms", "identity", "--res", "32..64", "--memory-limit", "80MiB"]) == 0
    shown = capsys.readouterr().out
    assert "identity: inference of 64 fits at every resolution predicted; training of 64 runs out at 64x64." in shown
    assert "Attention kernel assumed" in shown
    assert "on cpu; memory limit 80.0 MiB." in shown
    assert "none" in shown  # no attention, no kernel
    assert "*" in shown


def test_for_a_gpu_more_is_told_and_nothing_of_a_process(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--mechanisms", "identity", "--res", "64", "--memory-limit", PIB)
    here, there = (predicted(capsys, *words, "--device", device) for device in ("cpu", "cuda"))
    assert (here["device"], there["device"]) == ("cpu", "cuda")
    for step in ("inference", "training"):
        on_cpu, on_cuda = (found["forecasts"][0][step] for found in (here, there))
        assert on_cuda["peak_B"] > on_cpu["peak_B"]
        assert on_cuda["process_rss_B"] is None
    assert main(["predict", *words, "--device", "cuda"]) == 0
    assert "on cuda" in capsys.readouterr().out


def test_without_a_limit_it_is_what_the_machine_has_available(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("predict", "--models", "timm:test_resnet", "--res", "32", "--sdpa", "flash")
    assert main(words) == 0
    assert "what this machine has available now" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--mechanisms", "swn"], "did you mean 'swin'"),
        (["--memory-limit", "80G"], "'80G' is no amount of memory"),
        (["--sdpa", "cudnn"], "CUDA only"),
        (["--res", "448..224"], "ends below its begin"),
        (["--batch-size", "0"], "batch_size must be at least 1"),
        (["--precision", "fp8"], "unknown precision"),
        (["--size", "huge"], "unknown size"),
        (["--mechanisms", "swin,,full"], "not a list"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", *words]) == 2
    told = capsys.readouterr()
    assert message in told.err
    assert told.err.count("\n") == 1
    assert told.out == ""
