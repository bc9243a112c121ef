"""What ``${...}`` in a value stands for.

``${NAME}``, ``${NAME:-default}`` (also when NAME is empty, as in sh), ``${file:/path}`` and
``${credential:NAME}``; ``$${`` is a literal ``${``. Substituted text is not substituted again.

What comes from a file or a credential is a secret: it goes into the settings and nowhere else. For
printing and for mistakes, its reference stands in its place.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from .. import files
from .mistakes import Mistakes, join, shown
from .tree import Broken, Items, Node, Scalar, Section, resolve, unfit

SECRET_MAX: Final = 64 * 1024

_TOKEN: Final = re.compile(r"\$\$\{|\$\{([^}]*)\}|\$\{")
_VARIABLE: Final = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(:-(.*))?", re.DOTALL)
_ALLOWED: Final = "${NAME}, ${NAME:-default}, ${file:/path} and ${credential:NAME}; $${ stands for a literal ${"


class _Part(Struct, frozen=True):
    """A stretch of a value."""

    text: str
    reference: str | None = None
    """How a secret is written; ``None`` for what may be shown."""

    @property
    def written(self) -> str:
        return escape(self.text) if self.reference is None else self.reference


def escape(text: str) -> str:
    """Return what must be written so that nothing is substituted in it."""
    return text.replace("${", "$${")


class Substitution(Struct, frozen=True):
    """Where substituted values come from."""

    environ: Mapping[str, str]
    folder: str
    """Relative ``${file:...}`` start here."""
    mistakes: Mistakes

    def apply(self, node: Node, key: str = "") -> Node:
        """Return the tree with every value substituted; keys are left as they are."""
        if isinstance(node, Section):
            entries = {name: self.apply(each, join(key, name)) for name, each in node.entries.items()}
            return replace(node, entries=entries)
        if isinstance(node, Items):
            items = (self.apply(each, f"{key}[{number}]") for number, each in enumerate(node.items))
            return replace(node, items=tuple(items))
        return self._scalar(node, key) if isinstance(node, Scalar) and not node.literal else node

    def _scalar(self, scalar: Scalar, key: str) -> Node:
        if "${" not in scalar.text:
            return scalar
        try:
            return _joined(scalar, tuple(self._parts(scalar.text)))
        except ValueError as error:
            self.mistakes.add(scalar.place, key, str(error))
            return Broken(scalar.place)

    def _parts(self, text: str) -> Iterator[_Part]:
        end = 0
        for token in _TOKEN.finditer(text):
            yield _Part(text[end : token.start()])
            yield _Part("${") if token[0] == "$${" else self._value(token[0], token[1])
            end = token.end()
        yield _Part(text[end:])

    def _value(self, token: str, inner: str | None) -> _Part:
        if inner is None:
            raise ValueError("${ has no closing }; write $${ for a literal ${")
        variable = _VARIABLE.fullmatch(inner)
        if variable:
            return _Part(self._variable(*variable.groups()))
        source, colon, name = inner.partition(":")
        if colon and source == "file":
            return self._file(name)
        if colon and source == "credential":
            return self._credential(name)
        raise ValueError(f"{shown(token)} is no substitution; allowed are {_ALLOWED}")

    def _variable(self, name: str, has_default: str | None, default: str | None) -> str:
        value = self.environ.get(name)
        if has_default:
            value = value or default
        if value is None:
            raise ValueError(f"the environment variable {name} is not set; ${{{name}:-default}} gives a default")
        why = unfit(value)
        if why:
            raise ValueError(f"the value of the environment variable {name} {why}")
        return value

    def _file(self, name: str) -> _Part:
        path = os.path.join(self.folder, name)
        # Absolute, so that what is printed means the same wherever it is read again.
        return _Part(_secret(path, f"the file {path!r}"), f"${{file:{path}}}")

    def _credential(self, name: str) -> _Part:
        if not name or "/" in name or ".." in name:
            raise ValueError(f"{shown(name)} is no name of a credential; it may have neither / nor ..")
        folder = self.environ.get("CREDENTIALS_DIRECTORY")
        if not folder:
            raise ValueError(f"there is no credential {shown(name)}: systemd has not set CREDENTIALS_DIRECTORY")
        text = _secret(os.path.join(folder, name), f"the credential {shown(name)}")
        return _Part(text, f"${{credential:{name}}}")


def _joined(scalar: Scalar, parts: tuple[_Part, ...]) -> Node:
    text = "".join(part.text for part in parts)
    secret = any(part.reference is not None for part in parts)
    reference = "".join(part.written for part in parts) if secret else None
    return replace(scalar, text=text, tag=resolve(text) if scalar.plain else scalar.tag, reference=reference)


def _secret(path: str, what: str) -> str:
    """Return a file's text without its last line end. No message repeats any of it."""
    try:
        text = files.read(path, SECRET_MAX).decode()
    except UnicodeDecodeError:
        raise ValueError(f"{what} is not UTF-8") from None
    except files.UnusableError as error:
        raise ValueError(f"{what} {error}") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{what} cannot be read: {getattr(error, 'strerror', None) or 'invalid path'}") from None
    why = unfit(text)
    if why:
        raise ValueError(f"{what} {why}")
    return text.removesuffix("\n")
