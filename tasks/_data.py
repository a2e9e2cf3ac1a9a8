"""What every task's data say of themselves."""

from typing import Protocol

from attnbench.task_contract import Split


class Data(Protocol):
    """Examples of named classes, in two splits."""

    @property
    def identity(self) -> str:
        """Return the name of the data, or a hash of them."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the names of the classes, in the order of their labels."""

    def count(self, split: Split) -> int:
        """Return the number of examples; of training, those that there is something to learn from."""
