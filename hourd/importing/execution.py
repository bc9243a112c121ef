"""The settings of a Gunicorn configuration file, which is a Python program.

It is executed, as Gunicorn does: workers are computed of CPUs, addresses come from the environment, and
whoever has such a file runs it anyway. A process of its own does that, so that nothing of it stays here.
Where each setting stands is read from the source.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .. import errors

_PATIENCE = 60.0
_CALLABLE, _OTHER = "\0callable", "\0other"


@dataclass(frozen=True)
class Function:
    """A function or class, by its full name."""

    name: str


@dataclass(frozen=True)
class Other:
    """A value that has no text."""

    text: str


class Conf:
    """What a configuration file sets."""

    def __init__(self, path: str, values: dict[str, Any], statements: dict[str, tuple[int, str]]) -> None:
        self.path = path
        self.values = values
        self._statements = statements

    def where(self, name: str) -> str:
        """Return ``FILE:LINE: SETTING``."""
        line = f":{self._statements[name][0]}" if name in self._statements else ""
        return f"{self.path}{line}: {name}"

    def source(self, name: str) -> str:
        """Return the expression that a setting has in the file, if it is a plain one."""
        return self._statements.get(name, (0, ""))[1]


def read(path: str, names: Iterable[str]) -> Conf:
    """Execute a file and return what it sets.

    Args:
        path: the file.
        names: of the settings; what else it sets are its own variables.

    Raises:
        errors.ConfigError: it cannot be read, or fails; with the line.
    """
    try:
        with open(path, "rb") as file:
            source = file.read()
    except OSError as error:
        raise errors.ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    wanted = set(names)
    answer = _execute(path, wanted)
    if "error" in answer:
        line = f":{answer['line']}" if answer.get("line") else ""
        raise errors.ConfigError(f"{path}{line}: {answer['error']}")
    return Conf(path, {name: _value(each) for name, each in answer["values"].items()}, _statements(source, wanted))


def _execute(path: str, names: set[str]) -> dict[str, Any]:
    command = [sys.executable, "-m", __name__, path, ",".join(sorted(names))]
    # It is to find what this program finds, wherever that is.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=_PATIENCE, check=False
        )
    except subprocess.TimeoutExpired:
        raise errors.ConfigError(f"{path}: has not ended within {_PATIENCE:g}s") from None
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        raise errors.ConfigError(f"{path}: has ended its process (exit code {done.returncode})") from None
    return answer


def _value(told: Any) -> Any:
    if isinstance(told, list):
        return [_value(each) for each in told]
    if not isinstance(told, dict):
        return told
    if _CALLABLE in told:
        return Function(told[_CALLABLE])
    if _OTHER in told:
        return Other(told[_OTHER])
    return {name: _value(each) for name, each in told.items()}


def _statements(source: bytes, names: set[str]) -> dict[str, tuple[int, str]]:
    """Return line and expression of the last statement that binds each name, wherever it stands."""
    found: dict[str, tuple[int, str]] = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            bound, text = [node.name], ""
        elif isinstance(node, ast.Assign):
            bound = [target.id for target in node.targets if isinstance(target, ast.Name)]
            text = ast.unparse(node.value)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
            bound, text = [node.target.id], ast.unparse(node.value)
        else:
            continue
        for name in names.intersection(bound):
            if node.lineno > found.get(name, (0, ""))[0]:
                found[name] = node.lineno, text
    return found


# --- in the process of its own --------------------------------------------------------------------


def _told(value: Any) -> Any:
    if value is None or isinstance(value, bool | float | str):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, list | tuple | set | frozenset):
        return [_told(each) for each in value]
    if isinstance(value, dict) and all(isinstance(name, str) for name in value):
        return {name: _told(each) for name, each in value.items()}
    if callable(value):
        return {_CALLABLE: f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', '')}"}
    return {_OTHER: repr(value)}


def _run(path: str, names: Iterable[str]) -> dict[str, Any]:
    scope: dict[str, Any] = {"__name__": "__config__", "__file__": path, "__doc__": None, "__package__": None}
    try:
        with open(path, "rb") as file:
            code = compile(file.read(), path, "exec")
        exec(code, scope)  # noqa: S102, see the top
    except BaseException as error:  # noqa: BLE001, it may do anything
        lines = [error.lineno] if isinstance(error, SyntaxError) else []
        step = error.__traceback__
        while step is not None:
            lines += [step.tb_lineno] if step.tb_frame.f_code.co_filename == path else []
            step = step.tb_next
        return {
            "error": f"{type(error).__name__}: {getattr(error, 'msg', error)}",
            "line": lines[-1] if lines else None,
        }
    return {"values": {name: _told(scope[name]) for name in names if name in scope}}


def _main() -> None:
    path, names = sys.argv[1:]
    with os.fdopen(os.dup(1), "w") as answer:
        os.dup2(2, 1)  # what the file prints is not the answer
        json.dump(_run(path, names.split(",")), answer)


if __name__ == "__main__":
    _main()
