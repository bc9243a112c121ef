"""The package on real systemd: Debian roots that are booted, and a service under load. tests/booted has how."""

from __future__ import annotations

import pytest

from .booted import machine
from .booted.proof import prove
from .debian_root import PYTHON, roots

__all__ = ["roots"]


@pytest.mark.parametrize("release", PYTHON)
def test_nothing_is_lost_that_could_be_answered(roots, release):
    if reason := machine.missing():
        pytest.skip(reason)
    try:
        failures = prove(release)
    except machine.CannotBootError as error:
        pytest.skip(f"nothing can be booted here: {error}")
    assert not failures, "\n".join(failures)
