"""``attnbench data check``: what it prints and how it exits, for a task of its own and for strangers' names."""

import argparse
import json
from collections.abc import Callable
from typing import Any

import pytest

from attnbench import data_command
from attnbench.data_report import Problem, Report
from attnbench.errors import UserError
from attnbench.registry import TASKS

COUNTS: dict[str, dict[str, int | float]] = {"train": {"images": 3000, "ignored": 0.25}, "val": {"images": 2}}


def report(*problems: Problem, classes: dict[str, dict[str, int]] | None = None) -> Report:
    return Report(COUNTS, classes or {"train": {"cat": 5}, "val": {"cat": 1}}, "boxes", problems)


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> Callable[[Report], None]:
    """Return a function that makes a task ``toy`` whose check finds the given report."""

    def register(found: Report) -> None:
        class Toy:
            @staticmethod
            def check(path: str, progress: Any = None) -> Report:
                assert path == "some/where"
                progress(1, 2)
                return found

        monkeypatch.setitem(TASKS._registered, "toy", Toy)

    return register


def run(*words: str) -> int:
    parser = argparse.ArgumentParser()
    data_command.add_parser(parser.add_subparsers())
    options = parser.parse_args(["data", "check", *words])
    code: int = options.function(options)
    return code


def test_warnings_are_allowed_and_errors_are_not(
    checked: Callable[[Report], None], capsys: pytest.CaptureFixture[str]
) -> None:
    checked(report(Problem("warning", "odd", "a", "b")))
    assert run("some/where", "--task", "toy") == 0
    assert capsys.readouterr().out.endswith("no errors, 1 warning.\n")
    checked(report(Problem("error", "bad", "a", "b"), Problem("error", "bad", "c", "")))
    assert run("some/where", "--task", "toy") == 1
    output = capsys.readouterr()
    assert "error: bad (2)\n  a: b\n  c\n" in output.out
    assert output.out.endswith("2 errors, no warnings.\n")
    assert not output.err  # no terminal, no bar


def test_counts_are_a_column_for_each_split(
    checked: Callable[[Report], None], capsys: pytest.CaptureFixture[str]
) -> None:
    checked(report())
    run("some/where", "--task", "toy")
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["images", "3,000", "2"] in lines
    assert ["ignored", "25.0", "%", "-"] in lines
    assert ["cat", "5", "1"] in lines


def test_ten_problems_of_a_kind_are_named_and_json_has_all(
    checked: Callable[[Report], None], capsys: pytest.CaptureFixture[str]
) -> None:
    checked(report(*(Problem("error", "bad", f"file {n}", "") for n in range(13))))
    assert run("some/where", "--task", "toy") == 1
    output = capsys.readouterr().out
    assert "file 9\n  ... and 3 more\n" in output
    assert "file 10" not in output
    assert run("some/where", "--task", "toy", "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert [problem["where"] for problem in found["problems"]] == [f"file {n}" for n in range(13)]
    assert (found["errors"], found["warnings"], found["task"], found["counts"]) == (13, 0, "toy", COUNTS)


def test_many_classes_are_cut_short(checked: Callable[[Report], None], capsys: pytest.CaptureFixture[str]) -> None:
    checked(report(classes={"train": {f"class {n}": n for n in range(100)}, "val": {}}))
    run("some/where", "--task", "toy")
    output = capsys.readouterr().out
    assert "class 39" in output
    assert "class 40" not in output
    assert "... and 60 more classes" in output


def test_strangers_names_are_neither_markup_nor_control_characters(
    checked: Callable[[Report], None], capsys: pytest.CaptureFixture[str]
) -> None:
    name = "[red]x[/red]\x1b[2J\n\u202eend\udcff"
    checked(report(Problem("error", "bad", name, name), classes={"train": {name: 1}, "val": {}}))
    run("some/where", "--task", "toy")
    output = capsys.readouterr().out
    assert "[red]x[/red] [2J end" in output
    assert not set(output) & {"\x1b", "\u202e", "\udcff"}
    run("some/where", "--task", "toy", "--json")
    output = capsys.readouterr().out
    assert output.isascii()
    assert json.loads(output)["problems"][0]["where"] == name


def test_a_task_without_a_check_and_an_unknown_task_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS._registered, "toy", object)
    with pytest.raises(UserError, match="task 'toy' has no check of its data"):
        run("some/where", "--task", "toy")
    with pytest.raises(UserError, match="did you mean 'classification'"):
        run("some/where", "--task", "clasification")
