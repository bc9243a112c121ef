"""The proof for a release of Debian: two packages, a booted root, all phases, a table."""

from __future__ import annotations

import tempfile
from pathlib import Path

import hourd

from ..debian_root import base_root, build_deb
from .machine import Machine
from .phases import Phases
from .rows import table
from .service import Service

_HIGHER = "99.0"
"""A version that is higher than any."""


def prove(release: str, *phases: str) -> list[str]:
    """Run all phases, or some, print what they show and return what has failed."""
    with tempfile.TemporaryDirectory(prefix="hourd-debs-") as folder:
        packages = build_deb(release, Path(folder, "old")), build_deb(release, Path(folder, "new"), version=_HIGHER)
        with Machine(base_root(release), name=release) as machine:
            proof = Phases(Service(machine), packages)
            try:
                proof.run(*phases)
            finally:
                print(f"\n### {describe(machine)}\n\n{table(proof.rows)}\n")
    return proof.failures


def describe(machine: Machine) -> str:
    """Return what was booted, by what."""
    name = machine.run("sh", "-c", '. /etc/os-release; echo "$PRETTY_NAME"').strip()
    systemd = machine.run("systemctl", "--version").split()[1]
    python = machine.run("python3", "--version").strip()
    return f"{name}: systemd {systemd}, {python}, hourd {hourd.__version__}, booted by {machine.program}"
