"""A run as a whole: its folder, its worker template, its cells, its report."""

import hashlib
import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnbench import report, worker
from attnbench.allowance import Allowance
from attnbench.config import RunConfig
from attnbench.environment import device_memory
from attnbench.errors import UserError
from attnbench.listener import Listener, Silent
from attnbench.measure.priority import may_raise
from attnbench.plan import plan
from attnbench.process import Template, built_in_modules, plugin_sources
from attnbench.record import Record
from attnbench.registry import MECHANISMS, TASKS
from attnbench.report.rows import rows as make_rows
from attnbench.runner import Runner
from attnbench.store import Store, latest, load

if TYPE_CHECKING:
    from pandas import DataFrame

LOG = "workers.log"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run leaves: its folder, the latest record of each planned cell, and the table's rows."""

    folder: Path
    records: list[Record]
    rows: list[dict[str, Any]]

    @property
    def complete(self) -> bool:
        """Whether every cell is ok, or was planned to be skipped."""
        return all(record.status in ("ok", "skipped") for record in self.records)


def run(config: RunConfig) -> "DataFrame":
    """Run ``config`` and return its table, a row per mechanism, resolution and task; columns as in ``table.csv``.

    Raises:
        UserError: anything in ``config`` that cannot be run; nothing is written then.
    """
    from attnbench.report.table import to_frame

    return to_frame(run_cells(config, Silent()).rows)


def run_cells(config: RunConfig, listener: Listener) -> Outcome:
    """Run ``config``, telling ``listener``; see :func:`run`."""
    if worker.ACTIVE:
        raise UserError('a script that defines a mechanism and runs it must guard the run: if __name__ == "__main__":')
    planned = plan(config)
    named = ((MECHANISMS, list(planned.mechanisms)), (TASKS, planned.config.tasks))
    plugins = [source for registry, names in named for source in plugin_sources(registry, names)]
    preload = [module for registry, names in named for module in built_in_modules(registry, names)]
    allowance = Allowance(planned.config, device_memory(planned.config.device))
    folder = Path(planned.config.out) if planned.config.out is not None else default_folder(planned.config)
    with Store(folder) as store:
        text = config_text(planned.config)
        (folder / "config.yaml").write_text(text, encoding="utf-8")
        threads, limit = planned.config.threads or 1, _process_limit(planned.config, allowance)
        first = planned.config.timing.priority and may_raise()
        template = partial(Template, threads, preload, plugins, folder / LOG, memory_limit=limit)
        with template() as plain, template(first=first) as timed:
            Runner(planned, folder, store, listener, (plain, timed), allowance).all_cells()
        recorded = latest(load(folder))
        records = [recorded[cell.key] for cell in planned.cells]
        rows = make_rows(records)
        report.write(folder, records, text)
    return Outcome(folder, records, rows)


def _process_limit(config: RunConfig, allowance: Allowance) -> int | None:
    """Return what a worker may allocate of main memory (B); on a GPU, whose memory is another, there is no limit."""
    return None if config.device.startswith("cuda") else allowance.memory


def default_folder(config: RunConfig) -> Path:
    """Return ``results/<UTC time>-<short hash of config>``."""
    digest = hashlib.sha256(json.dumps(asdict(config), sort_keys=True).encode()).hexdigest()[:8]
    return Path("results") / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{digest}"


def config_text(config: RunConfig) -> str:
    """Return the resolved configuration as YAML."""
    import yaml

    return yaml.safe_dump(asdict(config), sort_keys=False, allow_unicode=True)
