"""The README: its commands are the agreed ones, its code runs, its table and definitions are the project's own."""

import csv
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from attnbench.cli import _parser
from attnbench.record import METRICS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
COMMANDS = [
    "pip install . && attnbench run --mechanisms focal,swin --res 224,896",
    'pip install -e ".[test]" && pytest',
]


def python_block(containing: str) -> str:
    (block,) = [text for language, text in BLOCKS if language == "python" and containing in text]
    return block


def test_there_are_exactly_the_two_commands_for_a_fresh_machine() -> None:
    (shell,) = [text for language, text in BLOCKS if language == ""]
    assert shell.splitlines() == COMMANDS


def test_the_tests_command_is_what_ci_runs() -> None:
    assert COMMANDS[1] in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


def test_every_attnbench_command_in_the_text_parses() -> None:
    commands = re.findall(r"`(attnbench (?:run|list|report|table|eval) [^`]*)`", README)
    assert len(commands) >= 4
    for command in commands:
        words = shlex.split(command)[1:]
        if "--help" not in words:
            assert _parser().parse_args(words).function


def test_the_mechanism_of_the_readme_works_as_written(tmp_path: Path) -> None:
    (tmp_path / "axial.py").write_text(python_block('@mechanism("axial"'), encoding="utf-8")
    code = """
import axial, torch, attnbench
model = attnbench.build_model("axial", resolution=(70, 50), num_classes=3)
assert attnbench.count_macs(model, (3, 70, 50)) == model.macs(70, 50)
module = attnbench.MECHANISMS["axial"].build(attnbench.Slot(8, 2, 0, 0, (3, 5)))
x = torch.randn(2, 3, 5, 8)
q, k, v = module.qkv(x).reshape(2, 3, 5, 3, 2, 4).unbind(3)
out = torch.zeros(2, 3, 5, 2, 4)
for b in range(2):
    for y in range(3):
        for c in range(5):
            for h in range(2):
                for keys, values in ((k[b, y, :, h], v[b, y, :, h]), (k[b, :, c, h], v[b, :, c, h])):
                    out[b, y, c, h] += (keys @ q[b, y, c, h] / 2).softmax(0) @ values
torch.testing.assert_close(module(x), module.proj(out.flatten(3)), atol=1e-5, rtol=1e-5)
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


def test_the_python_example_runs(tmp_path: Path) -> None:
    source = python_block("attnbench.run(")
    timing = "__import__('attnbench.config').config.Timing(min_rounds=3, max_rounds=3, budget=0.2)"
    quick = f"resolutions=['32'], timing={timing}"
    (tmp_path / "example.py").write_text(source.replace('resolutions=["64"]', quick))
    result = subprocess.run([sys.executable, "example.py"], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert "full" in result.stdout
    assert "pvt" in result.stdout


def test_the_published_example_prints_the_authors_parameters(capsys: pytest.CaptureFixture[str]) -> None:
    exec(python_block("create_model("), {})
    parameters, macs = map(int, capsys.readouterr().out.split())
    counts = json.loads((ROOT / "tests" / "golden" / "published_models.json").read_text(encoding="utf-8"))
    assert parameters == counts["focal_tiny"]["params"]["224"]
    assert 0.99 < macs / counts["focal_tiny"]["traced_macs"]["224"] < 1


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_is_defined_with_its_unit(name: str) -> None:
    metric = METRICS[name]
    assert f"| `{name}` | {metric.unit} | {metric.definition} |" in README


def test_the_table_is_that_of_the_reference_run() -> None:
    with (ROOT / "results" / "reference" / "table.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["mechanism"], row["resolution"]) for row in rows] == [
        ("focal", "224x224"),
        ("focal", "896x896"),
        ("swin", "224x224"),
        ("swin", "896x896"),
    ]
    for row in rows:
        cells = [
            row["mechanism"],
            row["resolution"],
            f"{float(row['parameters']) / 1e6:.2f}",
            f"{float(row['macs']) / 1e9:.2f}",
            f"{float(row['throughput_img_per_s']):.1f}",
            f"{float(row['time_ratio']):.2f}",
            f"{float(row['peak_memory_inference_B']) / 2**20:.1f}",
            f"{100 * float(row['headline_value']):.1f}" + (" (transfer)" if row["transfer"] == "True" else ""),
        ]
        assert "| " + " | ".join(cells) + " |" in README


def test_every_linked_file_is_there() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).is_file(), target
