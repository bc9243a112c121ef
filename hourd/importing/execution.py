"""The settings of a Gunicorn configuration file, which is a Python program.

It is executed, as Gunicorn does: workers are computed of CPUs, addresses come from the environment, and
whoever has such a file runs it anyway. A process of its own does that, so that nothing of it stays here.
Where each setting stands is read from the source.

What depends on the number of CPUs cannot be read there: names, helpers and conditions may stand in between. So a file
that asks for it is executed once more, with more of them.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .. import errors

MORE_CPUS = 1000
_PATIENCE = 60.0
_CALLABLE, _OTHER = "\0callable", "\0other"


@dataclass(frozen=True)
class Function:
    """A function or class, by its full name."""

    name: str

    def __repr__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Other:
    """A value that has no text."""

    text: str

    def __repr__(self) -> str:
        return self.text


class Conf:
    """What a configuration file sets."""

    def __init__(
        self,
        path: str,
        values: dict[str, Any],
        statements: dict[str, tuple[int, str]],
        with_more_cpus: Mapping[str, int] | None = None,
    ) -> None:
        self.path = path
        self.values = values
        self.with_more_cpus = with_more_cpus or {}
        """Numbers that depend on the CPUs, as they would be with ``MORE_CPUS`` more of them."""
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
    values = {name: _value(each) for name, each in answer["values"].items()}
    more = _with_more_cpus(path, wanted, values) if answer["counted"] else {}
    return Conf(path, values, _statements(source, wanted), more)


def _with_more_cpus(path: str, names: set[str], values: dict[str, Any]) -> dict[str, int]:
    """Execute a file again, and return the numbers that are others then."""
    try:
        again = _execute(path, names, MORE_CPUS)["values"]
    except (errors.ConfigError, KeyError):
        # It takes no second time, or not so many: nobody knows, and workers are what they are mostly counted for.
        workers = _number(values.get("workers"))
        return {} if workers is None else {"workers": workers}
    others = ((name, _number(each)) for name, each in again.items())
    return {name: number for name, number in others if number is not None and number != _number(values.get(name))}


def _number(value: Any) -> int | None:
    if isinstance(value, str) and value.isdecimal():
        return int(value)
    return value if isinstance(value, int) else None


def _execute(path: str, names: set[str], more_cpus: int = 0) -> dict[str, Any]:
    command = [sys.executable, "-m", __name__, path, ",".join(sorted(names)), str(more_cpus)]
    # It is to find what this program finds, wherever that is.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if more_cpus else None,  # it has said that before
            timeout=_PATIENCE,
            check=False,
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


def _told_or_not(value: Any) -> Any:
    try:
        return _told(value)
    except Exception:  # noqa: BLE001, it contains itself, or its own code is asked for its text
        return {_OTHER: f"a {type(value).__name__} that cannot be written down"}


def _count_more(more: int) -> Callable[[], bool]:
    """Have whoever counts the CPUs find more of them; returns what tells whether somebody has counted."""
    counted: list[bool] = []
    count, affinity = os.cpu_count, os.sched_getaffinity

    def cpu_count() -> int:
        counted.append(True)
        return (count() or 1) + more

    def sched_getaffinity(pid: int, /) -> set[int]:
        counted.append(True)
        found = affinity(pid)
        return found | set(range(max(found) + 1, max(found) + 1 + more))

    # multiprocessing asks os, whenever it is asked.
    vars(os).update(cpu_count=cpu_count, sched_getaffinity=sched_getaffinity)
    return lambda: bool(counted)


def _run(path: str, names: Iterable[str], more_cpus: int) -> dict[str, Any]:
    counted = _count_more(more_cpus)
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
    values = {name: _told_or_not(scope[name]) for name in names if name in scope}
    return {"values": values, "counted": counted()}


def _main() -> None:
    path, names, more_cpus = sys.argv[1:]
    with os.fdopen(os.dup(1), "w") as answer:
        os.dup2(2, 1)  # what the file prints is not the answer
        json.dump(_run(path, names.split(","), int(more_cpus)), answer)


if __name__ == "__main__":
    _main()
