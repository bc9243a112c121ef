"""The house: who may import whom, how long things may be, and that the sources of truth agree."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import hourd
from hourd.signals import OTHERS, SIGNALS

ROOT = Path(hourd.__file__).parent
README = ROOT.parent / "README.md"
FLOORS = (
    {
        "accept_queue",
        "addresses",
        "channel",
        "clock",
        "container",
        "context",
        "cpus",
        "descriptors",
        "ending",
        "errors",
        "files",
        "first",
        "line_writer",
        "locks",
        "loops",
        "memory",
        "networks",
        "priority",
        "privileges",
        "request_id",
        "scaling",
        "scoreboard",
        "systemd",
        "table",
        "units",
    },
    {"aiohttp", "engines", "forwarded", "pid_file", "settings", "stacks", "unix"},
    {"inherited", "events", "kinds", "log", "orders", "restarts"},
    {"application", "attendance", "children", "config", "signals"},
    {"certificates", "state"},
    {"binding", "control", "processes", "rotation", "upgrade"},
    {"listeners", "opening"},
    {"importing", "lending", "planning", "pool", "postmortem", "sampling", "trial", "understanding", "worker"},
    {"generations", "health", "mold", "reconcile"},
    {"supervisor"},
    {"status"},
    {"reporter"},
    {"parts"},
    {"handover", "performing"},
    {"master"},
    {"daemon"},
    {"cli"},
)
"""Every import goes down. ``kinds`` and ``config`` are packages, which stand on their floor as a whole."""
CODE_LINES = 250
FUNCTION_LINES = 60
ALLOWED_IN_MASTER = {"click", "msgspec", "setproctitle", "yaml"}

modules = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def name(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path: Path) -> Iterator[str]:
    """Yield the top-level names of hourd that a module imports."""
    depth = len(path.relative_to(ROOT).parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == depth:
            yield from [node.module.split(".")[0]] if node.module else [alias.name for alias in node.names]


def floor(module: str) -> int:
    return next(number for number, names in enumerate(FLOORS) if module in names)


def test_every_module_has_its_floor():
    assert sorted(set().union(*FLOORS)) == sorted({name(path) for path in modules})


@pytest.mark.parametrize("path", modules, ids=str)
def test_every_import_goes_down(path: Path):
    above = {other for other in imported(path) if other != "__version__" and floor(other) >= floor(name(path))}
    assert above - {name(path)} == set()


@pytest.mark.parametrize("path", modules, ids=str)
def test_sizes(path: Path):
    tree = ast.parse(path.read_text())
    nodes = list(ast.walk(tree))
    lines = {line for node in nodes if isinstance(node, ast.stmt) and not is_docstring(node) for line in head(node)}
    assert len(lines) <= CODE_LINES
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    long = [node.name for node in functions if (node.end_lineno or 0) - node.lineno >= FUNCTION_LINES]
    assert long == []


def is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def head(node: ast.stmt) -> range:
    """Return the lines of a statement, of a compound one those before its body."""
    body = getattr(node, "body", None) or getattr(node, "cases", None)
    first = body[0].lineno if body and isinstance(body[0], ast.stmt) else None
    return range(node.lineno, first if first and first > node.lineno else (node.end_lineno or node.lineno) + 1)


def test_the_readme_has_the_signal_table_in_the_same_order():
    rows = [line.split("|")[1].strip() for line in README.read_text().splitlines() if line.startswith("| ")]
    names = [name for row in rows for name in row.split(" / ")]
    wanted = [signal.name.removeprefix("SIG") for signal in SIGNALS]
    assert [name for name in names if name in wanted] == wanted
    assert "USR1" in names
    assert "SIGUSR1" in [signal.name for signal in OTHERS]


def test_readme_is_short():
    assert len(README.read_text().splitlines()) < 200
