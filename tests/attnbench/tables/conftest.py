"""Measured values for tables, made up but for the costs that are known exactly."""

import pytest

from attnbench.models import configuration, names
from attnbench.tables.measured import Cost, Interval, Measured

AT = (224, 224)


@pytest.fixture(scope="session")
def measured() -> Measured:
    """Some costs, some time ratios, one accuracy and one failure."""
    return Measured(
        costs={
            ("focal_tiny", AT): Cost(28_880_380, 4_953_223_680),
            ("focal_tiny_conv_embed", AT): Cost(30_825_244, 5_199_788_544),
            ("swin_tiny", AT): Cost(28_288_354, 4_490_566_656),
            ("swin_large", AT): Cost(196_532_476, 34_475_759_616),
            ("pvt_v2_b0", AT): Cost(3_666_760, 566_065_664),
            ("swin_tiny[window_size=14]", AT): Cost(28_344_898, 4_888_989_696),
        },
        time_ratios={
            ("swin_tiny", AT): Interval(1.0, 1.0, 1.0),
            ("focal_tiny", AT): Interval(2.4, 2.3, 2.5),
            ("pvt_small", AT): Interval(1.5, 1.4, 1.6),
            ("focal_tiny", (448, 448)): Interval(1.25, 1.2, 1.3),
        },
        accuracy={("swin_tiny", AT): 0.81172},
        configurations={name: configuration(name) for name in names()},
        failures={("swin_small", AT): "RuntimeError: no such kernel"},
    )
