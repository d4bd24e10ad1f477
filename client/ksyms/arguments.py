"""Reads plain command lines without argparse, which takes as long as Python itself.

A command describes its arguments once, in argparse's words, to whichever parser it is
given: this one, or where a command line is anything but plain, argparse's own.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


class Arguments:
    """What was given on a command line: argparse's Namespace, without argparse."""

    json: bool
    pretty: bool
    debug: bool
    version: bool

    def __init__(self, **values: object) -> None:
        self.__dict__.update(values)

    def __contains__(self, name: str) -> bool:
        return name in self.__dict__


class PlainArguments:
    """What add_argument() of argparse told, as far as plain command lines need it."""

    SUPPRESS = "==SUPPRESS=="
    """The default that sets no attribute."""

    def __init__(self) -> None:
        self._flags: dict[str, str] = {}
        self._values: dict[str, str] = {}
        self._defaults: dict[str, object] = {}
        self._positional = ""
        self._least = 0
        self._is_plain = True

    def add_argument(self, *names: str, **kwargs: object) -> None:
        """Take down an argument; one that is not plain makes every line not plain."""
        dest = str(kwargs.pop("dest", ""))
        kwargs.pop("help", None)
        kwargs.pop("metavar", None)
        action, default = kwargs.pop("action", "store"), kwargs.pop("default", None)
        if not names[0].startswith("-"):
            nargs = kwargs.pop("nargs", None)
            self._is_plain &= nargs in ("*", "+") and not (kwargs or self._positional)
            self._positional, self._least = names[0], int(nargs == "+")
            return
        long = next((name for name in names if name.startswith("--")), names[0])
        dest = dest or long.lstrip("-").replace("-", "_")
        if action == "store_true":
            self._flags.update(dict.fromkeys(names, dest))
            default = default or False
        elif action == "store":
            # With choices or a type argparse has more to say; so has it for the rest.
            if not kwargs:
                self._values.update(dict.fromkeys(names, dest))
        else:
            self._is_plain = False
        if default != self.SUPPRESS:
            self._defaults[dest] = default

    def add_argument_group(self, *_: object, **__: object) -> PlainArguments:
        """Groups matter to --help alone."""
        return self

    def parse(self, argv: Sequence[str], namespace: Arguments) -> bool:
        """Set the attributes of *namespace* as argparse would, and return True.

        False where *argv* is not plain: an abbreviation, a cluster, --option=value,
        "--", --help, an error ... Nothing is set then.
        """
        found: dict[str, object] = dict(self._defaults)
        words: list[str] = []
        last = -1
        numbered = iter(enumerate(argv))
        for at, word in numbered:
            if not word.startswith("-") or word == "-":
                # argparse takes one stretch of words only.
                if words and last != at - 1:
                    return False
                words.append(word)
                last = at
            elif word in self._flags:
                found[self._flags[word]] = True
            elif word in self._values:
                value = next(numbered, (0, "-"))[1]
                if value.startswith("-"):
                    return False
                found[self._values[word]] = value
            else:
                return False
        if not self._is_plain or len(words) < self._least:
            return False
        if self._positional:
            found[self._positional] = words
        elif words:
            return False
        for dest in found:
            setattr(namespace, dest, found[dest])
        return True
