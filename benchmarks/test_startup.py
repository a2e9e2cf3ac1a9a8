"""Whole processes: what a user waits for before anything is measured."""

import subprocess
import sys

import pytest
from pytest_benchmark.fixture import BenchmarkFixture


@pytest.mark.parametrize("words", [["--help"], ["list", "mechanisms"], ["run", "--mechanisms", "swn"]], ids=" ".join)
def test_command(benchmark: BenchmarkFixture, words: list[str]) -> None:
    command = [sys.executable, "-m", "attnbench.cli", *words]
    benchmark.pedantic(subprocess.run, (command,), {"capture_output": True}, rounds=5, warmup_rounds=1)
