"""Print the tables for the documentation: ``python -m tests.booted [RELEASE [PHASE...]]``, as root."""

from __future__ import annotations

import os
import sys
import tempfile

from .. import debian_root
from . import machine
from .proof import prove


def main(arguments: list[str]) -> int:
    """Prove it for all releases or one; HOURD_TEST_ROOTS names a folder that keeps roots for the next time."""
    releases, phases = arguments[:1] or list(debian_root.PYTHON), arguments[1:]
    with tempfile.TemporaryDirectory(prefix="hourd-roots-") as folder:
        os.environ.setdefault("HOURD_TEST_ROOTS", folder)
        if reason := debian_root.missing() or machine.missing():
            print(reason, file=sys.stderr)
            return 2
        failures = [f"{release}: {failure}" for release in releases for failure in prove(release, *phases)]
    for failure in failures:
        print(f"FAILED: {failure}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
