"""attnbench: a benchmark suite for attention mechanisms in one hierarchical vision backbone.

The public names below are handed on lazily, so that ``attnbench --help`` imports neither torch nor pandas.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attnbench.backbone import build_model
    from attnbench.config import RunConfig
    from attnbench.contract import Paper, Slot
    from attnbench.errors import UserError
    from attnbench.harness import run
    from attnbench.measure.macs import count_macs
    from attnbench.models import create_model
    from attnbench.published.load import from_published
    from attnbench.registry import MECHANISMS, TASKS, mechanism, task

__all__ = [
    "MECHANISMS",
    "TASKS",
    "Paper",
    "RunConfig",
    "Slot",
    "UserError",
    "build_model",
    "count_macs",
    "create_model",
    "from_published",
    "mechanism",
    "run",
    "task",
]

_HOMES = {
    "MECHANISMS": "attnbench.registry",
    "TASKS": "attnbench.registry",
    "Paper": "attnbench.contract",
    "RunConfig": "attnbench.config",
    "Slot": "attnbench.contract",
    "UserError": "attnbench.errors",
    "build_model": "attnbench.backbone",
    "count_macs": "attnbench.measure.macs",
    "create_model": "attnbench.models",
    "from_published": "attnbench.published.load",
    "mechanism": "attnbench.registry",
    "run": "attnbench.harness",
    "task": "attnbench.registry",
}

try:
    __version__ = version("attnbench")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "unknown"


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'attnbench' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
