"""YAML, environment and command line to settings; every mistake with file, line and key.

Downwards: bytes to a tree (``document``), the command line into it (``overrides``), ``${...}``
(``substitution``), the tree against the types of ``settings`` (``reader``) with the rules beyond types
(``checks``, ``serving``). Each step notes its mistakes and goes on; at the end, all are raised at once.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec import Struct, inspect

from .. import errors, files, kinds
from ..settings import Settings
from . import checks, document, tree
from .mistakes import Mistakes, Place, refusal, shown
from .overrides import NONE, Overrides, with_overrides
from .reader import Reader
from .substitution import Substitution
from .tree import Scalar, Section

__all__ = ["Loaded", "Overrides", "control_folders", "control_path", "from_app", "identify", "load"]

FILE_MAX: Final = 1024 * 1024
DEFAULT_KIND: Final = kinds.AUTO
"""Without a file. The master never imports user code: who does finds out what the object is."""

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_TYPE: Final = inspect.type_info(Settings)


class Loaded(Struct, frozen=True, repr_omit_defaults=True):
    """A configuration that was found right."""

    settings: Settings
    secrets: dict[tuple[str | int, ...], Scalar] = {}
    """The values that may not be shown, by their path in the settings."""
    file: str | None = None
    """As it was named; ``None`` when there is none."""

    def __repr__(self) -> str:
        # Settings hold secrets in clear: they must not reach a log through a careless %r.
        return f"Loaded({self.settings.name!r}, file={self.file!r})"


def load(path: str, *, environ: Mapping[str, str], overrides: Overrides = NONE) -> Loaded:
    """Read a configuration file.

    Args:
        path: the file; relative paths in it start at its folder.
        environ: for ``${NAME}``, and ``CREDENTIALS_DIRECTORY``.
        overrides: what the command line says instead.

    Raises:
        errors.ConfigError: there are mistakes; one line for each.
        errors.NoPermissionError: the file may not be read.
    """
    return _of_file(path, environ).loaded(overrides, path)


def identify(path: str, *, environ: Mapping[str, str]) -> tuple[str, str | None]:
    """Return the name and the control socket of a file's daemon, whatever else is wrong in the file.

    A daemon must be found by who wants to stop it also while its file is being edited.

    Raises:
        errors.ConfigError: not even that can be read.
    """
    return _of_file(path, environ).identity()


def from_app(app: str, *, environ: Mapping[str, str], overrides: Overrides = NONE, kind: str = DEFAULT_KIND) -> Loaded:
    """Make a configuration without a file: one pool ``main`` with one server ``main``.

    Args:
        app: ``module:object``; the module's top package is the default name.
        environ: as for ``load``.
        overrides: where ``bind`` must be given.
        kind: of the server.

    Raises:
        errors.ConfigError: there are mistakes; one line for each, named by option.
    """
    mistakes = Mistakes()
    here = Place("APP")
    if not overrides.bind:
        mistakes.add(Place("--bind"), "", "is missing; write where to listen, such as --bind 127.0.0.1:8080")
    server = _section(here, kind=_literal(Place("--kind"), kind), app=_literal(here, app))
    server = server if overrides.bind else server.having("bind", tree.Broken(Place("--bind")))
    pool = _section(here, servers=_section(here, main=server))
    root = _section(here, pools=_section(here, main=pool))
    stem = re.split(r"[.:]", app, maxsplit=1)[0]
    return _Loading(root, stem, _cwd() or "/", environ, mistakes).loaded(overrides, None)


def control_folders(environ: Mapping[str, str]) -> list[str]:
    """Return where control sockets are by default; a daemon takes the first place.

    Who asks it may have another environment (a service has systemd's ``RUNTIME_DIRECTORY``, a login
    has ``XDG_RUNTIME_DIR``), so that one looks in all of them.

    Args:
        environ: ``RUNTIME_DIRECTORY`` may list several, the first counts.
    """
    runtime = environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    home = environ.get("XDG_RUNTIME_DIR", "")
    return [folder for folder in (runtime, home and os.path.join(home, "hourd"), "/run/hourd") if folder]


def control_path(settings: Settings, environ: Mapping[str, str]) -> str:
    """Return the path of a daemon's control socket: as set, or in the first default place."""
    return settings.control or os.path.join(control_folders(environ)[0], f"{settings.name}.sock")


class _Loading(Struct, frozen=True):
    """A tree on its way to settings."""

    root: Section
    stem: str
    folder: str
    environ: Mapping[str, str]
    mistakes: Mistakes

    def loaded(self, overrides: Overrides, file: str | None) -> Loaded:
        root = with_overrides(self.root, overrides, self.mistakes)
        root = self._with_directory(self._with_name(root))
        root = self._substituted(root)
        values = Reader(self.mistakes, checks.rules(self.folder)).read(root, _TYPE, "")
        self.mistakes.raise_any()
        return Loaded(_converted(values, root.place), tree.secrets(root), file)

    def identity(self) -> tuple[str, str | None]:
        few = {name: node for name, node in self.root.entries.items() if name in ("name", "control")}
        root = self._substituted(self._with_name(Section(self.root.place, few, self.root.keys)))
        texts = {name: node.text for name, node in root.entries.items() if isinstance(node, Scalar)}
        if "name" not in texts:
            self.mistakes.raise_any()
            raise refusal(root.place, "name: expected a text")
        control = texts.get("control")
        return texts["name"], os.path.abspath(os.path.join(self.folder, control)) if control else None

    def _with_name(self, root: Section) -> Section:
        if "name" in root.entries:
            return root
        if not _NAME.fullmatch(self.stem):
            self.mistakes.add(root.place, "name", f"is missing, and {shown(self.stem)} cannot be one; set name")
            return root.having("name", tree.Broken(root.place))
        return root.having("name", _literal(root.place, self.stem))

    def _with_directory(self, root: Section) -> Section:
        if "directory" in root.entries:
            return root
        here = _cwd()
        if here is None:
            self.mistakes.add(root.place, "directory", "the current directory does not exist any more; set directory")
        return root.having("directory", _literal(root.place, here) if here else tree.Broken(root.place))

    def _substituted(self, root: Section) -> Section:
        node = Substitution(self.environ, self.folder, self.mistakes).apply(root)
        # A mapping stays one; the type does not say so.
        return node if isinstance(node, Section) else root


def _of_file(path: str, environ: Mapping[str, str]) -> _Loading:
    mistakes = Mistakes()
    root = document.parse(_content(path), path, mistakes)
    stem = os.path.basename(path).removesuffix(".yaml").removesuffix(".yml")
    folder = os.path.dirname(os.path.join(_cwd() or "/", path))
    return _Loading(root, stem, folder, environ, mistakes)


def _converted(values: Any, place: Place) -> Settings:
    try:
        return msgspec.convert(values, Settings)
    except msgspec.ValidationError:
        # Its message may quote a secret, and the reader lets nothing through that ends here.
        raise refusal(place, "the configuration is not allowed") from None


def _content(path: str) -> bytes:
    place = Place(path)
    try:
        return files.read(path, FILE_MAX)
    except FileNotFoundError:
        raise refusal(place, "there is no such file") from None
    except PermissionError as error:
        raise errors.NoPermissionError(f"{path}: cannot be read: {error.strerror}") from None
    except files.UnusableError as error:
        raise refusal(place, f"{error}; expected a YAML file") from None
    except (OSError, ValueError) as error:
        raise refusal(place, f"cannot be read: {getattr(error, 'strerror', None) or 'invalid path'}") from None


def _cwd() -> str | None:
    try:
        return os.getcwd()
    except OSError:
        return None


def _literal(place: Place, text: str) -> Scalar:
    return Scalar(place, text, literal=True)


def _section(place: Place, **entries: tree.Node) -> Section:
    return Section(place, entries, dict.fromkeys(entries, place))
