"""Plug-ins by name: registered by a decorator, declared in a source file or an entry point, loaded when asked for.

A name's module is imported on first look-up, so one broken plug-in leaves the others usable and raises only for whoever
asks for it. Names and summaries are read from the source, without importing torch.
"""

import importlib
import re
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from attnbench.contract import Mechanism, NoSettings, Paper
from attnbench.declarations import Declaration, declarations
from attnbench.errors import UserError, unknown
from attnbench.task_contract import Task

T = TypeVar("T")
C = TypeVar("C", bound=type)


class Registry(Generic[T]):
    """The plug-ins of one kind, a mapping from name to plug-in."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.package = f"attnbench.{kind}s"
        self._registered: dict[str, T] = {}
        self._origins: dict[str, type] = {}  # the decorated class of each registered name
        self._declared: list[Declaration] | None = None

    def add(self, name: str, value: T, origin: type) -> None:
        """Register ``value``; a name that is taken, or is not a plain lower-case identifier, is a ``UserError``."""
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
            raise UserError(f"{self.kind} name {name!r} must be lower-case letters, digits and underscores")
        holder = next(
            (self._module(other) for other in self._sources(name) if self._module(other) != origin.__module__), ""
        )
        earlier = self._origins.get(name)
        again = earlier is not None and (earlier.__module__, earlier.__qualname__) == ("__main__", origin.__qualname__)
        if holder or (earlier is not None and not again):  # a notebook cell may be run again
            holder = holder or earlier.__module__ if earlier else holder
            raise UserError(f"{self.kind} {name!r} of {origin.__module__} is already registered by {holder}")
        self._registered[name] = value
        self._origins[name] = origin

    def names(self) -> list[str]:
        """Return every name that can be asked for, in alphabetical order, without importing a plug-in."""
        points = entry_points(group=self.package)
        return sorted({*self._registered, *points.names, *(item.name for item in self.declared())})

    def declared(self) -> list[Declaration]:
        """Return what the source files of the built-in package declare."""
        if self._declared is None:
            self._declared = declarations(self.package, self.kind)
        return self._declared

    def origin(self, name: str) -> type | None:
        """Return the class that registered ``name`` in this process."""
        return self._origins.get(name)

    def __getitem__(self, name: str) -> T:
        """Return the plug-in, importing its module first.

        Raises:
            UserError: no such name (with the nearest known one), declared twice, or its module does not import.
        """
        if name not in self._registered:
            self._load(name)
        return self._registered[name]

    def __contains__(self, name: object) -> bool:
        return name in self.names()

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __len__(self) -> int:
        return len(self.names())

    def _sources(self, name: str) -> list[Declaration | EntryPoint]:
        declared = [item for item in self.declared() if item.name == name]
        return [*declared, *entry_points(group=self.package, name=name)]

    def _module(self, source: Declaration | EntryPoint) -> str:
        return source.module

    def _load(self, name: str) -> None:
        sources = self._sources(name)
        if not sources:
            raise unknown(self.kind, name, self.names())
        modules = [self._module(source) for source in sources]
        if len(modules) > 1:
            raise UserError(f"{self.kind} {name!r} is declared more than once: in {' and in '.join(modules)}")
        try:
            importlib.import_module(modules[0])
        except (Exception, SystemExit) as error:  # a module that ends the process would end ours in silence
            sys.modules.pop(modules[0], None)
            cause = " ".join(f"{type(error).__name__}: {error}".split())
            raise UserError(f"{self.kind} {name!r} cannot be loaded from {modules[0]}: {cause}") from error
        if name not in self._registered:
            raise UserError(f"{modules[0]} was to register {self.kind} {name!r} and did not")


MECHANISMS: Registry[Mechanism] = Registry("mechanism")
TASKS: Registry[type[Task]] = Registry("task")


def mechanism(
    name: str,
    *,
    paper: Paper | None = None,
    complexity: str = "",
    stages: tuple[Any, ...] = (NoSettings(),) * 4,
    any_resolution: bool = True,
    prefix: bool = False,
) -> Callable[[C], C]:
    """Register an attention module class under ``name``.

    Args:
        name: lower-case identifier, unique.
        paper: citation.
        complexity: of attention alone, as text.
        stages: frozen dataclass instances, the settings of each of the four stages.
        any_resolution: False for a module that works only at the grid that it was built for.
        prefix: True for a module that also takes prefix tokens, see :class:`~attnbench.contract.Attention`.
    """

    def register(cls: C) -> C:
        MECHANISMS.add(name, Mechanism(name, cls, paper, complexity, stages, any_resolution, prefix), cls)
        return cls

    return register


def task(name: str) -> Callable[[C], C]:
    """Register a task class under ``name``."""

    def register(cls: C) -> C:
        TASKS.add(name, cls, cls)
        return cls

    return register
