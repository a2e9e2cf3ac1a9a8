"""Variants of a run: which cells they add, under which labels and keys, and what stays as it is without them."""

import re
from collections import Counter, defaultdict
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnbench.axes import CHOICES, suffix, variants
from attnbench.config import RunConfig
from attnbench.errors import UserError
from attnbench.plan import plan
from attnbench.record import Cell, Probe

BASE: dict[str, Any] = {"mechanisms": ["focal", "swin"], "resolutions": ["64", "96"], "device": "cpu", "threads": 1}
ALL: dict[str, Any] = {
    "compile": "off,on",
    "channels_last": "off,on",
    "sdpa": "auto,math,flash",
    "precision": "fp32,bf16",
}
TIMED = ("latency", "latency_one", "training_step", "best_batch")


def cells_of(**values: Any) -> tuple[Cell, ...]:
    return plan(RunConfig(**{**BASE, "measure": ["cost", "best_batch"], **values})).cells


def choice(name: str) -> st.SearchStrategy[str]:
    return st.lists(st.sampled_from(CHOICES[name]), min_size=1, unique=True).map(",".join)


AXES = st.fixed_dictionaries({name: choice(name) for name in CHOICES})


def test_the_default_has_one_variant_without_a_suffix() -> None:
    assert [suffix(variant) for variant in variants(RunConfig())] == [""]
    assert all(value is None for variant in variants(RunConfig()) for value in variant.values())


@settings(max_examples=30, deadline=None)
@given(AXES)
def test_variants_are_all_combinations_with_suffixes_of_their_own(axes: dict[str, Any]) -> None:
    found = [suffix(variant) for variant in variants(RunConfig(**axes))]
    counts = [len(axes[name].split(",")) for name in ("compile", "channels_last", "sdpa")]
    assert len(set(found)) == len(found) == counts[0] * counts[1] * counts[2]


@pytest.mark.parametrize(
    ("axes", "expected"),
    [
        ({"compile": "off,on"}, ["", "+compile"]),
        ({"channels_last": "on"}, ["+channels_last"]),
        ({"sdpa": "auto,math"}, ["", "+sdpa=math"]),
        (
            {"compile": " off , on ", "sdpa": "flash,auto"},
            ["+sdpa=flash", "", "+compile+sdpa=flash", "+compile"],
        ),
    ],
)
def test_a_suffix_names_what_is_not_torchs_own_choice(axes: dict[str, Any], expected: list[str]) -> None:
    assert [suffix(variant) for variant in variants(RunConfig(**axes))] == expected


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"compile": "onn"}, "unknown compile 'onn'; did you mean 'on'?"),
        ({"compile": "1"}, "unknown compile '1'; known: off, on"),
        ({"channels_last": ""}, "unknown channels_last ''; known: off, on"),
        ({"sdpa": "auto,flsh"}, "unknown sdpa 'flsh'; did you mean 'flash'?"),
        ({"sdpa": "triton"}, "known: auto, cudnn, efficient, flash, math"),
        ({"precision": "fp32,fp8"}, "unknown precision 'fp8'; known: bf16, fp32"),
        ({"precision": "half"}, "known: bf16, fp32"),
        ({"precision": "fp32,"}, "unknown precision ''"),
        ({"compile": "on,off,on"}, "compile: on is given twice"),
        ({"precision": "fp32, fp32"}, "precision: fp32 is given twice"),
        ({"sdpa": "auto,math,math"}, "sdpa: math is given twice"),
    ],
)
def test_an_unknown_or_doubled_word_is_refused_with_the_right_ones(axes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        plan(RunConfig(**BASE, **axes))


@settings(max_examples=8, deadline=None)
@given(AXES)
def test_every_cell_has_a_key_of_its_own_and_labels_tell_apart_what_is_timed_together(axes: dict[str, Any]) -> None:
    planned = plan(RunConfig(**BASE, measure=["cost", "best_batch"], batch_size=2, **axes))
    assert len({cell.key for cell in planned.cells}) == len(planned.cells) == len(planned.labels)
    together: dict[Any, list[str]] = defaultdict(list)
    for cell in planned.cells:
        together[cell.probe, cell.resolution, cell.precision].append(planned.labels[cell.key])
    for labels in together.values():
        assert len(set(labels)) == len(labels)


def test_variants_are_timed_side_by_side() -> None:
    cells = [cell for cell in cells_of(**ALL) if cell.probe in TIMED]
    groups: dict[Any, list[Cell]] = defaultdict(list)
    for cell in cells:
        groups[cell.probe, cell.resolution, cell.precision].append(cell)
    place = 0
    for group in groups.values():
        assert len(group) == 2 * 2 * 2 * 3
        assert cells[place : place + len(group)] == group
        place += len(group)
        assert len({(cell.batch_size, cell.task, cell.reference, str(cell.timing)) for cell in group}) == 1


def test_the_plain_variant_keeps_the_key_it_has_without_axes() -> None:
    plain = [cell.key for cell in cells_of(batch_size=2)]
    among = [
        cell.key
        for cell in cells_of(batch_size=2, **ALL)
        if (cell.compile, cell.channels_last, cell.sdpa, cell.precision) == (None, None, None, "fp32")
    ]
    assert among == plain


def test_what_torch_does_by_itself_does_not_enter_a_cell() -> None:
    for cell in cells_of():
        assert not {"compile", "channels_last", "sdpa"} & set(cell.to_json())
    (cell,) = cells_of(measure=["macs"], mechanisms=["swin"], resolutions=["64"], compile="on", sdpa="math")
    assert (cell.to_json()["compile"], cell.to_json()["sdpa"]) == (True, "math")
    assert Cell.from_json(cell.to_json()) == cell


def test_a_variant_reaches_costs_and_not_trainings() -> None:
    learnt = cells_of(measure=["accuracy"], **{**ALL, "precision": "fp32"})
    assert [cell.key for cell in learnt] == [cell.key for cell in cells_of(measure=["accuracy"])]


def test_both_precisions_have_cells_of_every_probe() -> None:
    cells = cells_of(measure=["cost", "best_batch", "accuracy"], batch_size=2, precision="fp32,bf16")
    counts = Counter((cell.probe, cell.precision) for cell in cells)
    for probe in get_args(Probe):
        assert counts[probe, "fp32"] == counts[probe, "bf16"] > 0


def test_a_compiled_model_has_no_memory_cells_on_a_cpu() -> None:
    cells = cells_of(compile="off,on")
    probes = {flag: {cell.probe for cell in cells if cell.compile is flag} for flag in (None, True)}
    assert probes[None] - probes[True] == {"memory_inference", "memory_training"}
    assert probes[True] <= probes[None]
    assert not cells_of(compile="on", measure=["memory"])


@pytest.mark.parametrize(("batch_size", "expected"), [(1, False), (2, True), (64, True)])
def test_one_image_is_timed_apart_only_where_the_batch_has_several(batch_size: int, expected: bool) -> None:
    ones = [cell for cell in cells_of(batch_size=batch_size) if cell.probe == "latency_one"]
    assert bool(ones) == expected
    assert {cell.batch_size for cell in ones} <= {None}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, "focal"),
        ({"compile": "off,on"}, "focal"),
        ({"compile": "on,off"}, "focal+compile"),
        ({"reference": "swin", "sdpa": "math,auto"}, "swin"),
        ({"reference": "swin", "sdpa": "math"}, "swin+sdpa=math"),
        ({"reference": "swin+compile", "compile": "off,on"}, "swin+compile"),
    ],
)
def test_the_reference_is_a_variant_of_the_run(values: dict[str, Any], expected: str) -> None:
    planned = plan(RunConfig(**BASE, measure=["time"], **values))
    assert {cell.reference for cell in planned.cells} == {expected}
    assert expected in planned.labels.values()


def test_a_reference_that_is_no_variant_of_the_run_is_refused() -> None:
    with pytest.raises(UserError, match=re.escape("focal, swin")):
        plan(RunConfig(**BASE, reference="swin+compile"))
