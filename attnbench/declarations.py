"""What the plug-in files of a package declare, read from their source by ``ast``: nothing of them is imported."""

import ast
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Declaration:
    """One ``@mechanism("name", ...)`` or ``@task("name")`` in a source file."""

    name: str
    module: str
    summary: str  # first line of the module's docstring
    paper: dict[str, Any]  # title, arxiv, year; empty where there is none or it is not written as a literal
    complexity: str


def declarations(package: str, decorator: str) -> list[Declaration]:
    """Return the declarations in the modules of ``package``, by module name.

    A file that does not parse declares its own stem, so that asking for it shows its error and listing goes on.
    """
    spec = find_spec(package)
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()] if spec else []
    files = sorted(file for folder in folders for file in folder.glob("*.py") if not file.stem.startswith("_"))
    found = []
    for file in files:
        module = f"{package}.{file.stem}"
        try:
            tree = ast.parse(file.read_bytes())
        except (SyntaxError, ValueError):
            found.append(Declaration(file.stem, module, "(this file does not parse)", {}, ""))
            continue
        found += _of_module(tree, module, decorator)
    return found


def _of_module(tree: ast.Module, module: str, decorator: str) -> list[Declaration]:
    summary = (ast.get_docstring(tree) or "").partition("\n")[0]
    constants = {
        target.id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    found = []
    for node in tree.body:
        for call in node.decorator_list if isinstance(node, ast.ClassDef | ast.FunctionDef) else ():
            if not isinstance(call, ast.Call) or not call.args or _name(call.func) != decorator:
                continue
            keywords = {keyword.arg: keyword.value for keyword in call.keywords}
            name = _literal(call.args[0])
            if isinstance(name, str):
                paper = _paper(keywords.get("paper"), constants)
                complexity = str(_literal(keywords.get("complexity")) or "")
                found.append(Declaration(name, module, summary, paper, complexity))
    return found


def _paper(node: ast.expr | None, constants: dict[str, ast.expr]) -> dict[str, Any]:
    if isinstance(node, ast.Name):
        node = constants.get(node.id)
    if not isinstance(node, ast.Call):
        return {}
    given = dict(zip(("title", "arxiv", "year"), map(_literal, node.args), strict=False))
    return given | {keyword.arg: _literal(keyword.value) for keyword in node.keywords if keyword.arg}


def _name(node: ast.expr) -> str | None:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else None


def _literal(node: ast.expr | None) -> Any:
    try:
        return ast.literal_eval(node) if node is not None else None
    except ValueError:
        return None
