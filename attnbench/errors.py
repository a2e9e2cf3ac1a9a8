"""The one exception that means "the user can mend this": shown as one line, exit code 2."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """A wrong input; the message says what was wrong and what would be right."""


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """Make the error for a name that is not known: the nearest known name, or all of them."""
    names = sorted(known)
    near = get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names) or 'none'}"
    return UserError(f"unknown {kind} {name!r}; {hint}")


class UnsupportedError(UserError):
    """Something that a plug-in declares it cannot do; a row with status ``unsupported``, not a failure."""
