"""How many CPUs a container leaves."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hourd import cpus

AFFINITY = 16


@pytest.fixture(autouse=True)
def _affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(AFFINITY)))


def tree(root: Path, files: dict[str, str]) -> str:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return str(root)


@pytest.mark.parametrize(
    ("files", "number"),
    [
        pytest.param({}, AFFINITY, id="no control groups"),
        pytest.param({"proc/self/cgroup": "0::/\n"}, AFFINITY, id="the top group has no quota"),
        pytest.param({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": "max 100000\n"}, AFFINITY, id="max"),
        pytest.param({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": "200000 100000\n"}, 2, id="exact"),
        pytest.param({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": "200001 100000\n"}, 3, id="rounded up"),
        pytest.param({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": "1000 100000\n"}, 1, id="at least one"),
        pytest.param({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": "99 0\n"}, AFFINITY, id="no period"),
        pytest.param({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": "junk\n"}, AFFINITY, id="junk"),
        pytest.param({"proc/self/cgroup": "junk\n\n::::\n"}, AFFINITY, id="junk lines"),
        pytest.param(
            {
                "proc/self/cgroup": "0::/a/b/c\n",
                "sys/fs/cgroup/a/cpu.max": "300000 100000\n",
                "sys/fs/cgroup/a/b/c/cpu.max": "500000 100000\n",
            },
            3,
            id="an ancestor is stricter",
        ),
        pytest.param(
            {"proc/self/cgroup": "0::/docker/abc\n", "sys/fs/cgroup/cpu.max": "400000 100000\n"},
            4,
            id="the host's path, the container's mount",
        ),
        pytest.param(
            {"proc/self/cgroup": "0::/../a\n", "sys/fs/cgroup/a/cpu.max": "400000 100000\n"}, 4, id="outside namespace"
        ),
        pytest.param(
            {
                "proc/self/cgroup": "5:memory:/m\n4:cpu,cpuacct:/a/b\n0::/x\n",
                "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us": "250000\n",
                "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/cpu,cpuacct/a/b/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu,cpuacct/a/b/cpu.cfs_period_us": "100000\n",
            },
            3,
            id="version 1",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "4:cpu:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "600000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            6,
            id="version 1, top",
        ),
        pytest.param(
            {"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/unified/a/cpu.max": "700000 100000\n"}, 7, id="hybrid"
        ),
        pytest.param({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": "9900000 100000\n"}, 16, id="affinity"),
    ],
)
def test_available(tmp_path: Path, files: dict[str, str], number: int) -> None:
    assert cpus.available(tree(tmp_path, files)) == number


def test_here() -> None:
    assert 1 <= cpus.available() <= AFFINITY
