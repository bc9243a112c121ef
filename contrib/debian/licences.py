"""Print name, version and licence of each Python package in a folder, for the copyright file: licences.py FOLDER."""

from __future__ import annotations

import sys
from importlib.metadata import Distribution
from pathlib import Path

_NAMES = ("LICENSE", "LICENCE", "COPYING", "NOTICE")


def main() -> None:
    (packages,) = sys.argv[1:]
    for folder in sorted(Path(packages).glob("*.dist-info")):
        one = Distribution.at(folder)
        if one.name != "hourd":
            print(f"\n\n{'-' * 79}\n{one.name} {one.version}: {_licence(one)}")
            for path in sorted(
                path for path in folder.rglob("*") if path.is_file() and path.name.upper().startswith(_NAMES)
            ):
                text = path.read_text()
                full = "TERMS AND CONDITIONS FOR USE, REPRODUCTION" in text  # Debian has it once
                print(f"\n{'/usr/share/common-licenses/Apache-2.0' if full else text.strip()}")


def _licence(one: Distribution) -> str:
    said = [*one.metadata.get_all("License-Expression", []), *one.metadata.get_all("License", []), "as follows"]
    return str(said[0]).partition("\n")[0]


if __name__ == "__main__":
    main()
