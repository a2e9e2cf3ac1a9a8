"""The layer rule and the packaging, read from the source."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = [
    {"errors", "names", "record", "config", "contract", "task_contract", "sizes"}
    | {"amounts", "capacity", "axes"}
    | {"recipe", "recipes", "data_report"},
    {"declarations", "registry", "architecture", "store", "environment", "hardware"}
    | {"layers", "parts", "operators", "training_mlp", "training_conv_mlp"}
    | {"linear", "products", "norms", "hooks", "devices", "compiling"},
    {
        "backbone",
        "measure",
        "training",
        "plan",
        "report",
        "conf",
        "compose",
        "published",
        "models",
        "contenders",
        "validation",
    }
    | {"checkpoints", "weights", "matching", "comparison"},
    {"execute", "worker", "process", "timing", "harness", "listing", "tables", "table_scoring", "table_command"}
    | {"evaluation", "eval_command", "timm_models", "comparison_table", "compare_command", "data_command"}
    | {"forecast", "predict_table", "predict_command"}
    | {"allowance", "batch_search", "foresight", "listener", "runner", "cell_model", "learning"},
    {"progress", "table_timing", "cli", "__init__"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
CORE = sorted((ROOT / "attnbench").rglob("*.py"))
PLUGINS = sorted([*(ROOT / "mechanisms").glob("*.py"), *(ROOT / "tasks").glob("*.py")])


def imported(file: Path) -> list[str]:
    """Every module that ``file`` imports anywhere, relative imports with their dots."""
    found = []
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            source = "." * node.level + (node.module or "")
            found += [f"{source}.{alias.name}" for alias in node.names] if source in ("attnbench", ".") else [source]
    return found


def unit(file: Path) -> str:
    return file.relative_to(ROOT / "attnbench").with_suffix("").parts[0]


@pytest.mark.parametrize("file", CORE, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_core_module_imports_only_its_own_layer_and_lower_ones(file: Path) -> None:
    own = unit(file)
    others = {name.split(".")[1] for name in imported(file) if name.startswith("attnbench.")}
    if own == "__init__":
        return  # hands everything on, lazily
    too_high = {other for other in others - {own, "__version__"} if LEVEL[other] > LEVEL[own]}
    assert not too_high


@pytest.mark.parametrize("file", CORE, ids=lambda file: str(file.relative_to(ROOT)))
def test_the_core_names_no_plugin(file: Path) -> None:
    modules = imported(file)
    assert not [
        name for name in modules if name.startswith(("attnbench.mechanisms", "attnbench.tasks", "mechanisms", "tasks"))
    ]


@pytest.mark.parametrize("file", PLUGINS, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_plugin_imports_the_contract_layers_and_its_own_helpers(file: Path) -> None:
    for name in imported(file):
        if name.startswith("attnbench."):
            assert LEVEL[name.split(".")[1]] <= 1, name
        if name.startswith("."):
            assert name.lstrip(".").startswith("_"), f"{name} is another plug-in"


def test_the_packages_listed_for_installation_are_the_folders_that_hold_code() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    core = {".".join(file.parent.relative_to(ROOT).parts) for file in (ROOT / "attnbench").rglob("__init__.py")}
    plugins = {f"attnbench.{folder}" for folder in ("mechanisms", "tasks") if (ROOT / folder / "__init__.py").is_file()}
    assert set(setuptools["packages"]) == core | plugins


@pytest.mark.parametrize(
    "module",
    [
        "attnbench",
        "attnbench.cli",
        "attnbench.store",
        "attnbench.report",
        "attnbench.listing",
        "attnbench.recipes",
        "attnbench.eval_command",
        "attnbench.predict_command",
        "attnbench.compare_command",
        "attnbench.data_command",
        "attnbench.comparison",
        "attnbench.comparison_table",
        "attnbench.report.growth_text",
    ],
)
def test_light_modules_import_neither_torch_nor_pandas_nor_seaborn(module: str) -> None:
    heavy = ("torch", "pandas", "seaborn", "matplotlib", "timm", "hydra")
    code = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
