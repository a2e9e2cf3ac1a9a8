"""Registration, listing without imports, and plug-ins that are broken, doubled or outside of the tree."""

import subprocess
import sys
from pathlib import Path

import pytest

import attnbench
from attnbench.contract import NoSettings
from attnbench.registry import Registry, mechanism

PLUGIN = """
import attnbench
from torch import nn

@attnbench.mechanism({name!r})
class Mixing(nn.Module):
    def __init__(self, slot, settings):
        super().__init__()
    def forward(self, x):
        return x
    def macs(self, height, width):
        return 0
"""


def install(folder: Path, module: str, source: str, name: str) -> None:
    """Put a distribution with one entry point into ``folder``, as pip would."""
    (folder / f"{module}.py").write_text(source, encoding="utf-8")
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(f"[attnbench.mechanisms]\n{name} = {module}\n", encoding="utf-8")


def python(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    prefix = f"import sys; sys.path.insert(0, {str(folder)!r})\n"
    return subprocess.run([sys.executable, "-c", prefix + code], capture_output=True, text=True, check=False)


def test_the_names_read_from_the_source_are_those_that_register() -> None:
    for registry in (attnbench.MECHANISMS, attnbench.TASKS):
        for declaration in registry.declared():
            registry[declaration.name]
            origin = registry.origin(declaration.name)
            assert origin is not None
            assert origin.__module__ == declaration.module


def test_the_declared_citation_is_the_registered_one() -> None:
    for declaration in attnbench.MECHANISMS.declared():
        paper = attnbench.MECHANISMS[declaration.name].paper
        assert paper is not None
        assert declaration.paper == {"title": paper.title, "arxiv": paper.arxiv, "year": paper.year}


def test_listing_imports_no_plugin() -> None:
    code = "import sys, attnbench; print(attnbench.MECHANISMS.names()); assert 'torch' not in sys.modules"
    assert "swin" in subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_an_installed_plugin_is_found_and_built(tmp_path: Path) -> None:
    install(tmp_path, "outside_mixing", PLUGIN.format(name="outside"), "outside")
    build = "attnbench.build_model('outside', resolution=(32, 32))"
    code = f"import attnbench; {build}; print('outside' in attnbench.MECHANISMS)"
    assert python(tmp_path, code).stdout.strip() == "True"


def test_a_broken_plugin_raises_only_for_whoever_asks_for_it(tmp_path: Path) -> None:
    install(tmp_path, "broken_mixing", "raise RuntimeError('no such\\nlibrary')", "broken")
    others = "import attnbench; print(attnbench.MECHANISMS.names()); attnbench.MECHANISMS['swin']"
    assert "'broken'" in python(tmp_path, others).stdout
    asked = python(tmp_path, "import attnbench; attnbench.MECHANISMS['broken']")
    assert "cannot be loaded from broken_mixing: RuntimeError: no such library" in asked.stderr
    install(tmp_path, "leaving_mixing", "import sys; sys.exit(3)", "leaving")
    asked = python(tmp_path, "import attnbench; attnbench.MECHANISMS['leaving']")
    assert "cannot be loaded from leaving_mixing: SystemExit: 3" in asked.stderr


def test_a_plugin_that_does_not_register_its_name_is_named(tmp_path: Path) -> None:
    install(tmp_path, "silent_mixing", "", "silent")
    asked = python(tmp_path, "import attnbench; attnbench.MECHANISMS['silent']")
    assert "silent_mixing was to register mechanism 'silent'" in asked.stderr


def test_an_installed_plugin_cannot_take_a_built_in_name(tmp_path: Path) -> None:
    install(tmp_path, "false_swin", PLUGIN.format(name="swin"), "swin")
    asked = python(tmp_path, "import attnbench; attnbench.MECHANISMS['swin']")
    assert "declared more than once: in attnbench.mechanisms.swin and in false_swin" in asked.stderr
    assert python(tmp_path, "import attnbench; attnbench.MECHANISMS['focal']").returncode == 0


def test_a_name_that_is_declared_cannot_be_registered_again(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(PLUGIN.format(name="swin"), encoding="utf-8")
    assert "'swin' of mine is already registered by attnbench.mechanisms.swin" in python(tmp_path, "import mine").stderr


def test_a_second_class_of_one_name_is_refused() -> None:
    registry: Registry[object] = Registry("mechanism")

    class First:
        pass

    class Second:
        pass

    registry.add("mine", object(), First)
    with pytest.raises(attnbench.UserError, match="already registered"):
        registry.add("mine", object(), Second)


@pytest.mark.parametrize("name", ["", "Swin", "../swin", "a b", "1st", "swin\n"])
def test_a_name_that_is_no_identifier_is_refused(name: str) -> None:
    with pytest.raises(attnbench.UserError, match="lower-case"):
        mechanism(name)(type("Mixing", (), {}))


def test_settings_that_are_not_one_per_stage_are_a_type_error() -> None:
    with pytest.raises(TypeError, match="4 dataclass instances"):
        mechanism("three_stages", stages=(NoSettings(),) * 3)(type("Mixing", (), {}))


def test_a_file_that_does_not_parse_breaks_nothing_but_itself(tmp_path: Path) -> None:
    package = tmp_path / "bench" / "mechanisms"
    package.mkdir(parents=True)
    (tmp_path / "bench" / "__init__.py").write_text("", encoding="utf-8")
    (package / "__init__.py").write_text("", encoding="utf-8")
    (package / "wrong.py").write_text("def (", encoding="utf-8")
    (package / "right.py").write_text(PLUGIN.format(name="right"), encoding="utf-8")
    names = "[item.name for item in declarations('bench.mechanisms', 'mechanism')]"
    code = f"from attnbench.declarations import declarations; print({names})"
    assert python(tmp_path, code).stdout.strip() == "['right', 'wrong']"
