"""The record store, with processes that are killed, disks that are full and lines that are broken, for real."""

import json
import math
import os
import random
import signal
import string
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attnbench.errors import UserError
from attnbench.record import METRICS, Cell, Measurement, Probe, Record, Status
from attnbench.store import Store, latest, load

ENDLESS_WRITER = """
import sys
from pathlib import Path
from attnbench.record import Cell, Measurement, Record
from attnbench.store import Store
with Store(Path(sys.argv[1])) as store:
    for number in range(int(sys.argv[2]), 10**9):
        cell = Cell("latency", "focal", "nano", (224, 224), "cpu", "fp32", 1, 10, seed=number)
        samples = tuple(index / 7 for index in range(2000))
        store.append(Record(cell, "ok", (Measurement("latency", 0.1, "s", samples=samples),), {}, "now"))
        print(number, flush=True)
"""


def record(seed: int = 0, value: float = 0.1, status: Status = "ok", **environment: Any) -> Record:
    cell = Cell("accuracy", "focal", "nano", (224, 224), "cpu", "fp32", 1, 10, seed=seed)
    return Record(cell, status, (Measurement("top1", value, "1"),), environment, "2025-01-01T00:00:00Z")


def start(code: str, *arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


finite = st.floats(allow_nan=False, allow_infinity=False)
scalars = st.none() | st.booleans() | st.integers() | finite | st.text()
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3), max_leaves=5)
objects = st.dictionaries(st.text(), values, max_size=3)
sides = st.tuples(st.integers(1, 4096), st.integers(1, 4096))
measurements = st.sampled_from(sorted(METRICS)).flatmap(
    lambda metric: st.builds(
        Measurement,
        st.just(metric),
        finite,
        st.just(METRICS[metric].unit),
        low=st.none() | finite,
        high=st.none() | finite,
        samples=st.lists(finite, max_size=3).map(tuple),
        rounds=st.lists(st.integers(), max_size=3).map(tuple),
        times=st.lists(finite, max_size=3).map(tuple),
        kind=st.none() | st.text(min_size=1),
    )
)
cells = st.builds(
    Cell,
    st.sampled_from(get_args(Probe)),
    st.text(),
    st.text(),
    sides,
    st.text(),
    st.text(),
    st.integers(),
    st.integers(),
    batch_size=st.none() | st.integers(),
    settings=objects,
    reference=st.none() | st.text(),
    task=st.none() | st.text(),
    data=st.none() | st.text(),
    seed=st.none() | st.integers(),
    train_resolution=st.none() | sides,
    recipe=st.none() | objects.filter(bool),
    timing=st.none() | objects.filter(bool),
)
records = st.builds(
    Record,
    cells,
    st.sampled_from(get_args(Status)),
    st.lists(measurements, max_size=3).map(tuple),
    objects,
    st.text(),
    error=st.none() | st.text(),
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(written=st.lists(records, max_size=4))
def test_records_come_back_equal(tmp_path_factory: pytest.TempPathFactory, written: list[Record]) -> None:
    folder = tmp_path_factory.mktemp("run")
    with Store(folder) as store:
        for item in written:
            store.append(item)
    assert load(folder) == written
    assert (folder / "records.jsonl").read_bytes().count(b"\n") == len(written)


def test_a_number_comes_back_bit_for_bit(tmp_path: Path) -> None:
    values = [0.1 + 0.2, 5e-324, 1.7976931348623157e308, -0.0, 1 / 3]
    with Store(tmp_path) as store:
        for seed, value in enumerate(values):
            store.append(record(seed, value))
    found = [item.measurements[0].value for item in load(tmp_path)]
    assert [value.hex() for value in found] == [value.hex() for value in values]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_refused_by_name_and_nothing_is_written(tmp_path: Path, value: float) -> None:
    with Store(tmp_path) as store:
        store.append(record(0))
        with pytest.raises(ValueError, match=r"measurements\[0\]\.value of the accuracy record"):
            store.append(record(1, value))
        store.append(record(2))
    assert [item.cell.seed for item in load(tmp_path)] == [0, 2]


def test_the_latest_line_of_a_key_wins_and_keys_keep_their_order(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        for item in (record(0, 0.1), record(1, 0.2), record(0, 0.3, "failed")):
            store.append(item)
    found = latest(load(tmp_path))
    assert list(found) == [record(0).cell.key, record(1).cell.key]
    assert [item.status for item in found.values()] == ["failed", "ok"]


def test_opening_gives_the_records_that_are_there(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        assert store.records == []
        store.append(record(0))
    with Store(tmp_path) as store:
        assert store.records == [record(0)]


# Torn and corrupt lines


@pytest.mark.parametrize("cut", [1, 2, 40, 200])
def test_a_torn_last_line_is_ignored_by_readers_and_cut_off_by_the_next_writer(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "records.jsonl"
    with Store(tmp_path) as store:
        store.append(record(0))
        store.append(record(1))
    path.write_bytes(path.read_bytes()[:-cut])
    torn = path.read_bytes()
    assert load(tmp_path) == [record(0)]
    assert path.read_bytes() == torn  # a reader changes nothing
    with Store(tmp_path) as store:
        assert store.records == [record(0)]
        store.append(record(2))
    assert load(tmp_path) == [record(0), record(2)]


def good_line(**changes: Any) -> bytes:
    return json.dumps({**record(0).to_json(), **changes}).encode()


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"{", "line 2"),
        (b"", "line 2"),
        (b"\xff\xfe", "line 2"),
        (b"\0" * 50, "line 2"),
        (b"[1, 2]", "line 2: not a record"),
        (b"[" * 200_000, "line 2"),
        (good_line(schema=2), "line 2: records of schema 2"),
        (good_line(status="fine"), "line 2: status 'fine'"),
        (good_line(key="0" * 16), "line 2: the key"),
        (good_line(cell={**record(0).cell.to_json(), "colour": 1}), "line 2: unknown field 'colour'"),
        (good_line().replace(b"0.1", b"NaN"), "line 2: NaN"),
        (b"{}", "line 2"),
    ],
)
def test_a_corrupt_line_is_named_by_its_number_and_nothing_is_changed(tmp_path: Path, line: bytes, why: str) -> None:
    path = tmp_path / "records.jsonl"
    path.write_bytes(good_line() + b"\n" + line + b"\n" + good_line() + b"\n")
    before = path.read_bytes()
    for opening in (load, Store):
        with pytest.raises(UserError, match=why):
            opening(tmp_path)
    assert path.read_bytes() == before
    path.write_bytes(good_line() + b"\n")
    Store(tmp_path).close()  # the refusal left no lock


def test_every_line_up_to_the_last_append_outlives_a_kill_at_any_moment(tmp_path: Path) -> None:
    moments = random.Random(0)
    kept = 0
    for _ in range(4):
        with start(ENDLESS_WRITER, str(tmp_path), str(kept)) as writer:
            assert writer.stdout is not None
            first = writer.stdout.readline()
            time.sleep(moments.uniform(0, 0.2))
            writer.send_signal(signal.SIGKILL)
            acknowledged = [int(word) for word in (first + writer.stdout.read()).split("\n")[:-1]]
        seeds = [item.cell.seed for item in load(tmp_path)]
        assert acknowledged, "the writer must have written"
        assert seeds == list(range(len(seeds)))
        assert len(seeds) >= acknowledged[-1] + 1
        with Store(tmp_path) as store:  # the lock went with the process
            assert len(store.records) == len(seeds)
        kept = len(seeds)


# The lock


def test_a_second_writer_is_told_who_holds_the_folder(tmp_path: Path) -> None:
    with start(ENDLESS_WRITER, str(tmp_path), "0") as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        try:
            with pytest.raises(UserError, match=rf"process {holder.pid} on \S+ since \d{{4}}-\d\d-\d\dT"):
                Store(tmp_path)
            assert load(tmp_path)  # readers need no lock
        finally:
            holder.kill()
    Store(tmp_path).close()


def test_one_process_cannot_hold_a_folder_twice(tmp_path: Path) -> None:
    with Store(tmp_path), pytest.raises(UserError, match=f"process {os.getpid()} "):
        Store(tmp_path)
    Store(tmp_path).close()


def test_a_forked_child_does_not_keep_its_dead_parents_lock(tmp_path: Path) -> None:
    code = """
import os, sys, time
from pathlib import Path
from attnbench.store import Store
store = Store(Path(sys.argv[1]))
if os.fork() == 0:
    print(os.getpid(), flush=True)  # after the fork is done
time.sleep(60)
"""
    with start(code, str(tmp_path)) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        try:
            with pytest.raises(UserError, match=f"process {parent.pid} "):
                Store(tmp_path)
            parent.kill()
            parent.wait()
            Store(tmp_path).close()
            os.kill(child, 0)  # it lives
        finally:
            os.kill(child, signal.SIGKILL)


def test_a_holder_that_has_not_written_its_name_is_another_process(tmp_path: Path) -> None:
    with Store(tmp_path):
        (tmp_path / ".lock").write_text("{")
        with pytest.raises(UserError, match="another process"):
            Store(tmp_path)


def test_a_lock_that_is_a_link_does_not_have_its_target_overwritten(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("data")
    (tmp_path / ".lock").symlink_to(target)
    with pytest.raises(UserError):
        Store(tmp_path)
    assert target.read_text() == "data"


# Disks


@pytest.mark.parametrize("opening", ["file/run", "file"])
def test_a_folder_that_cannot_be_made_is_refused_before_anything_runs(tmp_path: Path, opening: str) -> None:
    (tmp_path / "file").write_text("")  # permissions do not bind root; a file in the way does
    with pytest.raises(UserError, match="cannot write to"):
        Store(tmp_path / opening)


def test_records_that_cannot_be_opened_are_refused_and_the_lock_is_given_back(tmp_path: Path) -> None:
    (tmp_path / "records.jsonl").mkdir()
    with pytest.raises(UserError, match="cannot write to"):
        Store(tmp_path)
    with pytest.raises(UserError, match="cannot read"):
        load(tmp_path)
    (tmp_path / "records.jsonl").rmdir()
    Store(tmp_path).close()


def test_a_folder_without_records_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no records\.jsonl in"):
        load(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_a_full_disk_loses_nothing_that_was_finished(tmp_path: Path) -> None:
    code = """
import resource, sys
from pathlib import Path
from attnbench.errors import UserError
from attnbench.record import Cell, Record
from attnbench.store import Store
def record(number):
    return Record(Cell("macs", "focal", "nano", (1, 1), "cpu", "fp32", 1, 10, seed=number), "ok", (), {}, "now")
store = Store(Path(sys.argv[1]))
store.append(record(0))
size = store.path.stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + size // 2, resource.RLIM_INFINITY))
try:
    store.append(record(1))
except UserError as error:
    print(error)
print(store.path.stat().st_size == size)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
store.append(record(2))
"""
    with start(code, str(tmp_path)) as writer:
        out, error = writer.communicate(timeout=60)
    assert writer.returncode == 0, error
    message, cut_back = out.splitlines()
    assert "cannot write" in message
    assert "File too large" in message
    assert cut_back == "True"
    assert [item.cell.seed for item in load(tmp_path)] == [0, 2]


def test_half_a_line_that_could_not_be_cut_back_is_cut_before_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: int) -> None:
        raise OSError(5, "Input/output error")

    with Store(tmp_path) as store:
        store.append(record(0))
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fail)
            patch.setattr(os, "ftruncate", fail)
            with pytest.raises(UserError, match="Input/output error"):
                store.append(record(1))
        store.append(record(2))
    assert load(tmp_path) == [record(0), record(2)]


def test_a_file_deleted_under_the_writer_is_noticed(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.append(record(0))
        (tmp_path / "records.jsonl").unlink()
        with pytest.raises(UserError, match="deleted"):
            store.append(record(1))


def test_a_closed_store_refuses_to_write(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.close()
    with pytest.raises(ValueError, match="closed"):
        store.append(record())


def test_a_strangers_name_never_becomes_a_path(tmp_path: Path) -> None:
    name = "../../" + string.punctuation
    with Store(tmp_path / "run") as store:
        store.append(Record(Cell("macs", name, name, (1, 1), name, name, 1, 1, task=name), "failed", (), {}, "", name))
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")} == {
        "run", "run/.lock", "run/records.jsonl",
    }  # fmt: skip


def test_the_store_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'numpy', 'pandas', 'matplotlib', 'seaborn', 'rich', 'scipy'}"
    code = f"import sys, attnbench.store, attnbench.report; print({heavy} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
