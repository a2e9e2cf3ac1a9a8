"""The reported numbers that travel with the package: complete, typed, as in the files they were taken from."""

import csv
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import timm

from attnbench.published import reported
from attnbench.published.catalogue import MODELS
from attnbench.published.model_names import TIMM_PREFIX, changes_at, label_of, model_label, model_name

ORIGINALS = Path(__file__).parents[4] / "shared" / "paper"
FILES: dict[str, tuple[Callable[[], tuple[Any, ...]], str, int]] = {
    "imagenet": (reported.imagenet, "1_imagenet1k_classification.csv", 141),
    "throughput": (reported.throughput, "2_throughput.csv", 161),
    "coco": (reported.coco, "3_coco_retinanet_maskrcnn.csv", 135),
    "detectors": (reported.detectors, "4_coco_other_detectors.csv", 50),
    "systems": (reported.systems, "4b_coco_system_level.csv", 8),
    "ade20k": (reported.ade20k, "5_ade20k_segmentation.csv", 61),
    "ablations": (reported.ablations, "6_ablations.csv", 30),
    "configs": (reported.configs, "7_model_configs.csv", 80),
    "disagreements": (reported.disagreements, "9_disagreements.csv", 33),
}


def words(row: Any) -> dict[str, str]:
    return {field.name: str(getattr(row, field.name) or "") for field in fields(row)}


@pytest.mark.parametrize("name", FILES)
def test_a_file_has_all_its_rows(name: str) -> None:
    load, _, count = FILES[name]
    assert len(load()) == count


@pytest.mark.parametrize("name", FILES)
def test_every_row_is_word_for_word_a_row_of_the_original(name: str) -> None:
    load, original, _ = FILES[name]
    if not (ORIGINALS / original).is_file():
        pytest.skip("the original files are not here")
    rows = [words(row) for row in load()]
    with (ORIGINALS / original).open(encoding="utf-8", newline="") as file:
        originals = [{key: row[key] for key in rows[0]} for row in csv.DictReader(file)]
    missing = [row for row in rows if row not in originals]
    assert not missing
    if name != "ablations":  # of which only the studies of the tables are here
        assert rows == originals


@pytest.mark.parametrize("name", [name for name in FILES if name != "disagreements"])
def test_every_row_names_its_source_and_its_model(name: str) -> None:
    assert all(row.source.strip() and row.model_key.strip() and row.model.strip() for row in FILES[name][0]())


def test_digits_are_kept_as_printed() -> None:
    printed = {row.params_M for row in reported.imagenet() if row.model_key == "swin_tiny"}
    assert printed == {"29", "28", "28.3", "28.29"}


def test_a_file_with_other_columns_is_refused() -> None:
    with pytest.raises(ValueError, match=r"imagenet.csv has the columns .* not those of StageRow"):
        reported._load("imagenet", reported.StageRow)


def test_an_empty_field_that_must_not_be_empty_is_refused() -> None:
    (source,) = [field for field in fields(reported.StageRow) if field.name == "source"]
    with pytest.raises(ValueError, match="source is empty"):
        reported._typed({"source": ""}, source, "configs")


def test_every_published_model_is_printed_under_the_name_it_is_built_under() -> None:
    printed = {model_name(row.model_key, row.variant) for row in reported.imagenet()}
    assert set(MODELS) - printed == {"swin_large"}
    assert label_of("swin_large") == "Swin-Large"


def test_every_context_model_is_one_that_timm_has() -> None:
    keys = [row.model_key for row in reported.imagenet()] + [row.model_key for row in reported.tasks()]
    context = {model_name(key) for key in keys}
    names = {name.removeprefix(TIMM_PREFIX) for name in context if name.startswith(TIMM_PREFIX)}
    assert names
    assert names <= set(timm.list_models())


@pytest.mark.parametrize(
    ("key", "variant", "name"),
    [
        ("focal_tiny", "repo, no conv embed", "focal_tiny"),
        ("focal_tiny", "repo, conv embed", "focal_tiny_conv_embed"),
        ("focal_tiny", "PaddleViT port, conv embed", "focal_tiny_conv_embed"),
        ("focal_fast_base", "repo v2, conv embed", "focal_fast_base_conv_embed"),
        ("focal_fast_base", "", "focal_fast_base_conv_embed"),
        ("pvtv2_b2_li", "paper", "pvt_v2_b2_li"),
        ("deit_small", "repo", "timm:deit_small_patch16_224"),
        ("cvt_13", "repo", "cvt_13"),
        ("vit_small", "as cited in PVT", "vit_small_as_cited_in_pvt"),
    ],
)
def test_a_key_maps_to_the_name_of_its_model(key: str, variant: str, name: str) -> None:
    assert model_name(key, variant) == name


def test_a_label_tells_namesakes_apart() -> None:
    assert model_label("Focal-Tiny", "focal_tiny", "repo, conv embed") == "Focal-Tiny, conv embed"
    assert model_label("ViL-Tiny", "vil_tiny", "repo, relative position bias") == "ViL-Tiny, relative bias"
    assert model_label("ViT-B/16", "vit_base", "", "ImageNet-22K") == "ViT-Base/16, from ImageNet-22K"


def test_swin_base_at_384_has_its_own_window() -> None:
    assert changes_at("swin_base", 384) == {"window_size": 12}
    assert changes_at("swin_base", 224) == {}
