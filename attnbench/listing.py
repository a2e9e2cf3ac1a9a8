"""What ``attnbench list`` shows, without importing a plug-in."""

from dataclasses import asdict
from typing import Any

from attnbench import recipes
from attnbench.compose import presets
from attnbench.published.catalogue import MODELS
from attnbench.registry import MECHANISMS, TASKS, Registry
from attnbench.sizes import SIZES


def listing(what: str) -> list[dict[str, Any]]:
    """Return one object per mechanism, model, task, size, preset or recipe, each with its ``name``."""
    if what == "sizes":
        return [{"name": name, **asdict(size)} for name, size in SIZES.items()]
    if what == "presets":
        return [{"name": name} for name in presets()]
    if what == "recipes":
        return [{"name": name, "tasks": ", ".join(recipes.tasks(name))} for name in recipes.names()]
    if what == "models":
        return [{"name": name, "kind": model.kind, "config": model.config} for name, model in MODELS.items()]
    registry: Registry[Any] = MECHANISMS if what == "mechanisms" else TASKS
    declared = {item.name: item for item in registry.declared()}
    items = []
    for name in registry.names():
        item = declared.get(name)
        entry: dict[str, Any] = {"name": name, "summary": item.summary if item else "(plug-in)"}
        if what == "mechanisms":
            entry |= {"complexity": item.complexity if item else "", "arxiv": item.paper.get("arxiv") if item else None}
        items.append(entry)
    return items
