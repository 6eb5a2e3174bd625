"""The page of the programs' options, from the programs themselves.

Each is asked in a process of its own, for two of them in one process would measure under the same names.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from docs.markdown import code, table

if TYPE_CHECKING:
    from collections.abc import Iterator

_INTRODUCTION = """\
# Commands

The chart starts these with the right options; under systemd or as static pods you give them yourself. All
write their log to stderr, and end in order at SIGTERM.
"""
_ASKED = """
import importlib, json, sys
shown = []
for name in sys.argv[1:]:
    parser = importlib.import_module(name)._parser()
    options = [
        {"name": each.option_strings[0], "default": each.default, "required": each.required,
         "choices": list(each.choices or ()), "help": each.help}
        for each in parser._actions if each.dest != "help"
    ]
    shown.append({"name": parser.prog, "description": parser.description, "options": options})
print(json.dumps(shown, default=str))
"""
_MODULES = (
    ("vipcontroller.__main__", "vipcontroller.uninstall"),
    ("vipagent.__main__",),
    ("vipcourier.__main__",),
)
_USUAL = "0 after SIGTERM, 1 when something that it needs is missing, 2 for options that cannot work."
_EXIT = {
    "vipkeeper-controller": (
        "0 after SIGTERM, 1 when it lost the leadership (another replica has it), 2 for options or a "
        "configuration that cannot work, 3 when the API server refuses what it needs."
    ),
    "vipkeeper-controller release-finalizers": (
        "0 when nothing is left to do, 1 when something is in the way, 2 for options that cannot work, 143 "
        "when it was told to end before."
    ),
    "vipkeeper-keeper": _USUAL,
    "vipkeeper-courier": _USUAL,
}


@functools.cache
def commands() -> list[dict[str, Any]]:
    """Return the name, description and options of each command."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    asked = [
        subprocess.Popen([sys.executable, "-c", _ASKED, *names], stdout=subprocess.PIPE, env=environment)
        for names in _MODULES
    ]
    return [command for each in asked for command in json.loads(each.communicate()[0])]


def page() -> str:
    """Return the page."""
    return _INTRODUCTION + "".join(map(_section, commands()))


def _section(command: dict[str, Any]) -> str:
    name = command["name"]
    options = table(("Option", "Default", "Meaning"), _rows(command["options"]))
    return f"\n## {name}\n\n{command['description']}\n\n{options}\nExit status: {_EXIT[name]}\n"


def _rows(options: list[dict[str, Any]]) -> Iterator[tuple[str, str, str]]:
    for option in options:
        choices = ", ".join(map(code, option["choices"]))
        meaning = "; ".join(each for each in (option["help"], choices and f"one of {choices}") if each)
        yield code(option["name"]), _default(option), meaning


def _default(option: dict[str, Any]) -> str:
    if option["required"]:
        return "required"
    if option["name"] == "--identity":
        return "the host's name"
    default = option["default"]
    if isinstance(default, list):
        default = ":".join(map(str, default))
    return "" if default in (None, False) else code(str(default))


def options(program: str) -> set[str]:
    """Return the options of a program, those of its other commands among them."""
    named = (command["options"] for command in commands() if command["name"].split()[0] == program)
    return {option["name"] for options in named for option in options} | {"--help"}
