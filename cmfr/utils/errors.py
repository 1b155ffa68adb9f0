"""What a command says when it cannot do what it was asked."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """Something that the user can put right; the message is one sentence that says what.

    Commands show that sentence. Any other error but those of the system (OSError) is a mistake of
    this package, and they show where it happened.
    """


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """The sentence for a name that there is not: what there is, and which one may be meant.

    what: begins the sentence, e.g. "no preset is called"
    """
    names = list(known)
    close = get_close_matches(name, names, 1)
    meant = f"; did you mean {close[0]}?" if close else ""
    return f"{what} {name!r}; there are {', '.join(names)}{meant}"
