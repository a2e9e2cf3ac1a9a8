"""Configurations: what the authors set per stage beside what this project builds, each cell equal or different."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from attnbench.published import reported
from attnbench.published.model_names import model_name
from attnbench.published.reported import StageRow
from attnbench.tables.measured import Measured, Selection
from attnbench.tables.model import Cell, Here, Quantity, Reported, Row, Table, part
from attnbench.tables.verdict import judge_setting

_COLUMNS: Final = {  # column of the reported file: header
    "embed_dim": "dim",
    "depth": "blocks",
    "heads": "heads",
    "head_dim": "head dim",
    "mlp_ratio": "MLP ratio",
    "window_partition_s_p": "window",
    "focal_levels": "levels",
    "level0_s_r": "fine region",
    "level1_s_w": "pooled window",
    "level1_s_r": "focal window",
    "expand_size": "expand",
    "pooling": "pooling",
    "conv_embed": "conv embed",
    "sr_ratio": "sr ratio",
    "drop_path": "drop path",
}
_FAMILIES: Final = ("focal_", "swin_", "pvt_")  # PVTv2 among the last
QUANTITIES: Final = tuple(Quantity(name, header, judge=judge_setting) for name, header in _COLUMNS.items())
_RULE: Final = (
    "Each cell holds the authors' setting and whether ours is 'equal' or 'differs' (then ours is shown); a dash: the "
    "setting does not exist there. Expansion is 0 where one window covers the map, as in stage 4 at 224; regions are "
    "window + 2 x expansion. PVTv2's overlapping patch embedding is listed as conv embed."
)


def build(measured: Measured, selection: Selection) -> Table:
    """Return one row per model and stage; settings that do not exist for a model have no cell value."""
    rows = tuple(
        _row(row, measured.configurations) for row in reported.configs() if selection.takes(model_name(row.model_key))
    )
    families = [tuple(row for row in rows if row.model.startswith(prefix)) for prefix in _FAMILIES]
    parts = tuple(part(("model", "stage"), QUANTITIES, family) for family in families if family)
    return Table("configs", "Configurations per stage, at 224x224", parts, (_RULE,))


def models() -> set[str]:
    """Return every model whose configuration is printed."""
    return {model_name(row.model_key) for row in reported.configs()}


def _row(row: StageRow, configurations: Mapping[str, Mapping[str, Any]]) -> Row:
    name = model_name(row.model_key)
    configuration = configurations.get(name)
    ours = None if configuration is None else _ours(name, configuration, row)
    cells = []
    for quantity in QUANTITIES:
        printed = getattr(row, quantity.name)
        found = () if printed is None else (Reported(printed, row.source, note=row.note),)
        here = None if ours is None or printed is None else Here(ours[quantity.name])
        cells.append(Cell(quantity, found, here))
    return Row(name, (row.model, str(row.stage)), tuple(cells))


def _ours(name: str, settings: Mapping[str, Any], row: StageRow) -> dict[str, str]:
    """Return our settings of one stage in the words of the reported file."""
    stage = row.stage - 1
    dim = settings["embed_dims"][stage] if "embed_dims" in settings else settings["embed_dim"] * 2**stage
    heads = settings["num_heads"][stage]
    window = int(settings.get("window_size", 0))
    covered = not name.startswith("focal_fast_") and row.feature_map_at_224 <= window
    expand = 0 if covered else _at(settings.get("expand_sizes", 0), stage)
    pooling = "average pool to 7x7" if settings.get("linear") else settings.get("focal_pool")
    found = {
        "embed_dim": dim,
        "depth": settings["depths"][stage],
        "heads": heads,
        "head_dim": dim // heads,
        "mlp_ratio": _number(_at(settings.get("mlp_ratios", settings.get("mlp_ratio", 4)), stage)),
        "window_partition_s_p": window,
        "focal_levels": _at(settings.get("focal_levels"), stage),
        "level0_s_r": window + 2 * expand,
        "level1_s_w": window,
        "level1_s_r": _at(settings.get("focal_windows"), stage),
        "expand_size": expand,
        "pooling": pooling,
        "conv_embed": "yes" if settings.get("use_conv_embed") or name.startswith("pvt_v2_") else "no",
        "sr_ratio": _at(settings.get("sr_ratios"), stage),
        "drop_path": settings.get("drop_path_rate"),
    }
    return {key: str(value) for key, value in found.items()}


def _at(value: Any, stage: int) -> Any:
    return value[stage] if isinstance(value, Sequence) and not isinstance(value, str) else value


def _number(value: float) -> str:
    return f"{value:g}"
