"""What a run compares, as it is written: mechanisms, models, and variants of both."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnbench.config import RunConfig
from attnbench.contenders import contenders
from attnbench.errors import UserError
from attnbench.names import parse, split
from attnbench.plan import plan


def labels(**values: Any) -> list[str]:
    return [item.label for item in contenders(RunConfig(**values))]


def test_without_a_word_focal_and_swin_are_compared_and_beside_models_none() -> None:
    assert labels() == ["focal", "swin"]
    assert labels(models=["pvt_tiny"]) == ["pvt_tiny"]
    assert labels(mechanisms=["full"], models=["pvt_tiny"]) == ["full", "pvt_tiny"]


def test_a_variant_is_a_contender_of_its_own_with_its_settings() -> None:
    config = RunConfig(mechanisms=["swin", "swin[window=14, shift=false]"], models=["focal_tiny[depths=[2,2,4,2]]"])
    found = contenders(config)
    assert [item.label for item in found] == [
        "swin",
        "swin(shift=false, window=14)",
        "focal_tiny(depths=[2, 2, 4, 2])",
    ]
    assert [item.settings for item in found] == [{}, {"window": 14, "shift": False}, {"depths": [2, 2, 4, 2]}]
    assert [item.modules for item in found] == [("swin",), ("swin",), ("focal",)]


def test_a_variant_needs_to_be_buildable_at_one_of_the_resolutions_only() -> None:
    """Eight cells to a window's side fit a window of 14 tokens, and none of 7, to which stage 4 at 224 shrinks it."""
    deep = "focal_tiny[window_size=14, focal_levels=[5,5,5,5]]"
    with pytest.raises(UserError, match="use fewer levels"):
        contenders(RunConfig(models=[deep], resolutions=["224"]))
    assert len(contenders(RunConfig(models=[deep], resolutions=["224", "896"]))) == 1


def test_settings_of_the_run_reach_variants_and_give_way_to_their_own() -> None:
    config = RunConfig(mechanisms=["focal", "focal[expand=0]"], settings={"focal": {"window": 5, "expand": 1}})
    assert [item.settings for item in contenders(config)] == [{"window": 5, "expand": 1}, {"window": 5, "expand": 0}]


def test_one_mechanism_in_two_sizes_has_two_labels() -> None:
    assert labels(mechanisms=["swin"], models=["uniform:swin_tiny"]) == ["uniform:swin_nano", "uniform:swin_tiny"]
    assert labels(models=["uniform:swin_tiny"]) == ["swin"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"models": ["focal_tinny"]}, "did you mean 'focal_tiny'"),
        ({"models": ["timm:no_such_model"]}, "timm has no model 'no_such_model'"),
        ({"models": ["uniform:swin"]}, "uniform:<mechanism>_<size>"),
        ({"models": ["focal_tiny[windowsize=3]"]}, "did you mean 'window_size'"),
        ({"models": ["focal_tiny", "focal_tiny"]}, "focal_tiny is given twice"),
        ({"models": ["focal_tiny[focal_pool=avg]"]}, "pool must be one of"),
        ({"models": ["focal_tiny[num_heads=[3,6,12,7]]"]}, "does not divide into 7 heads"),
        ({"models": ["pvt_tiny[sr_ratios=[0,1,1,1]]"]}, "sr_ratios must all be at least 1"),
        ({"models": ["swin_tiny[num_classes=10]"]}, "num_classes is no setting of a model"),
        ({"models": ["timm:resnet18[a=1]"]}, "timm cannot make 'timm:resnet18'"),
        ({"mechanisms": ["swin"], "models": ["uniform:swin_nano"]}, "swin is given twice"),
        ({"mechanisms": ["swin[window]"]}, "name.setting=value"),
        ({"mechanisms": ["swin[window=2,window=3]"]}, "name.setting=value"),
        ({"mechanisms": ["swin[window=[1]"]}, "name.setting=value"),
        ({"mechanisms": ["swin]"]}, "neither a name nor"),
        ({"mechanisms": [], "models": []}, "at least one"),
        (
            {"models": ["focal_tiny"], "settings": {"swin_tiny": {"window_size": 3}}},
            "not among the mechanisms or models",
        ),
    ],
    ids=str,
)
def test_what_cannot_be_compared_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        contenders(RunConfig(**values))


def test_the_reference_may_be_written_as_the_contender_or_as_its_label() -> None:
    config = RunConfig(mechanisms=["swin", "swin[window=14]"], resolutions=["64"], measure=["time"], device="cpu")
    for written in ("swin[window=14]", "swin[ window = 14 ]", "swin(window=14)"):
        config.reference = written
        assert {cell.reference for cell in plan(config).cells} == {"swin(window=14)"}
    config.reference = "swin[window=13]"
    with pytest.raises(UserError, match="not among the mechanisms and models of this run: swin, swin"):
        plan(config)


def test_models_without_data_have_the_classes_of_imagenet() -> None:
    config = RunConfig(models=["pvt_tiny"], resolutions=["64"], measure=["macs"], device="cpu")
    assert {cell.num_classes for cell in plan(config).cells} == {1000}
    config.num_classes = 7
    assert {cell.num_classes for cell in plan(config).cells} == {7}


def test_costs_can_be_asked_for_one_by_one() -> None:
    def probes(*measure: str) -> set[str]:
        config = RunConfig(mechanisms=["full"], resolutions=["64"], measure=list(measure), device="cpu")
        return {cell.probe for cell in plan(config).cells}

    assert probes("cost") == probes("macs", "time", "training_time", "memory")
    assert probes("time") == {"latency"}
    assert probes("macs", "accuracy") == {"macs", "training", "accuracy"}


@given(st.lists(st.from_regex(r"[a-z:_]{1,8}(\[[a-z]{1,3}=\[?[0-9, ]{1,5}\]?\])?", fullmatch=True), min_size=1))
def test_lists_are_split_at_the_commas_outside_of_brackets(items: list[str]) -> None:
    balanced = [item for item in items if item.count("[") == item.count("]")] or ["x"]
    assert split(", ".join(balanced)) == balanced


def test_values_are_what_yaml_says_and_no_code() -> None:
    assert parse("a[b=1, c=1e-3, d=x, e=true, f=[1, 2]]") == (
        "a",
        {"b": 1, "c": "1e-3", "d": "x", "e": True, "f": [1, 2]},
    )
    with pytest.raises(UserError, match="settings are written"):
        parse("a[b=!!python/object/apply:os.system [ls]]")
