"""Debian roots to build, install and boot hourd's package in.

    deb = build_deb("trixie", folder)
    with overlay(base_root("trixie")) as root:
        install(root, deb)
        run_in(root, "hourd", "check")

A base root is made once by debootstrap and never changed afterwards: everything happens in an overlay on it, which
is gone when its block is left. Roots, wheels and the tools of a build are kept in the folder that HOURD_TEST_ROOTS
names, for the next time. The fixture ``roots`` names one for this run of the tests where there is none, and skips
where none of this can be.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PYTHON = {"bookworm": "3.11", "trixie": "3.13"}
"""The releases that the package is for, and the Python of each."""
TREE = Path(__file__).parents[1]
_PACKAGES = "systemd,systemd-sysv,dbus,libpam-systemd,python3,python3-venv"
_TOOLS = ("debhelper", "lintian", "logrotate", "rsyslog")
_SOURCES = ("LICENSE", "README.md", "CHANGELOG.md", "pyproject.toml", "contrib", "etc", "hourd")
_PLATFORMS = ("manylinux_2_28", "manylinux_2_17", "manylinux2014", "manylinux_2_12", "manylinux_2_5", "manylinux1")
"""What runs on both releases."""
_APT = ("apt-get", "-q", "-y", "--no-install-recommends", "-o", "Acquire::Check-Valid-Until=false")


@pytest.fixture(scope="session")
def roots(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Have roots, or skip. Workers of pytest-xdist share them."""
    if not os.environ.get("HOURD_TEST_ROOTS"):
        base = tmp_path_factory.getbasetemp()
        base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
        os.environ["HOURD_TEST_ROOTS"] = str(base / "roots")
    if reason := missing():
        pytest.skip(reason)


def missing() -> str:
    """Return why no root can be made here, or an empty text."""
    if os.geteuid() != 0:
        return "only root can make a Debian root"
    lacking = [name for name in ("debootstrap", "unshare", "mount", "chroot") if not shutil.which(name)]
    if lacking:
        return f"there is no {', no '.join(lacking)}"
    if not mirror():
        return "apt knows no mirror of Debian here"
    try:
        with urllib.request.urlopen(f"{mirror()}/dists/trixie/InRelease", timeout=10) as answer:
            answer.read(1)
    except (OSError, urllib.error.URLError) as error:
        return f"no mirror of Debian can be reached: {error}"
    try:
        with overlay(_folder()):
            return ""
    except RuntimeError as error:
        return f"no overlay can be mounted: {error}"


@functools.cache
def mirror() -> str:
    """Return the mirror of Debian that this machine uses, or an empty text."""
    with contextlib.suppress(OSError):
        command = ("apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Origin: Debian")
        found = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
        return found[0].rstrip("/") if found else ""
    return ""


def base_root(release: str) -> Path:
    """Return a minimal system of a release; whoever changes it does so for everybody."""
    with _kept(release, functools.partial(_bootstrap, release)) as place:
        return place


def build_root(release: str) -> Path:
    """Return what lies over the base root where packages are built and examined: `_TOOLS`."""
    with _kept(f"{release}-build", functools.partial(_install_tools, release), of=" ".join(_TOOLS)) as place:
        return place


def wheelhouse(release: str) -> Path:
    """Return a folder with all wheels that building and running hourd in a release needs."""
    wanted = _requirements()
    with _kept(f"{release}-wheels", functools.partial(_download, release, wanted), of=" ".join(wanted)) as place:
        return place


@contextlib.contextmanager
def overlay(*lower: Path, changes: Path | None = None) -> Iterator[Path]:
    """Mount a root that may be changed; what changes is forgotten at the end.

    Args:
        lower: what lies below, the topmost first; never changed.
        changes: a folder that keeps what changes, of the same file system as the roots.
    """
    _sweep()
    place = Path(tempfile.mkdtemp(prefix=f"overlay-{os.getpid()}-", dir=_folder()))
    try:
        with _mounted(lower, changes or place / "changes", place) as root:
            yield root
    finally:
        shutil.rmtree(place)


def run_in(
    root: Path,
    *command: str | Path,
    environment: dict[str, str] | None = None,
    bind: dict[Path, str] | None = None,
    check: bool = True,
) -> subprocess.CompletedProcess[str]:
    """Run a command in a root, with /proc and /dev, in namespaces that end with it: nothing stays mounted or runs on.

    Args:
        root: an overlay.
        command: and its arguments; its output comes in one piece, errors included.
        environment: besides PATH, HOME and LANG.
        bind: folders of this machine, and where in the root they are to be seen.
        check: whether to raise ``AssertionError`` with the output when it fails.
    """
    script = ['mount -t proc proc "$0/proc"', 'mount --rbind /dev "$0/dev"']
    for source, target in (bind or {}).items():
        (root / target.lstrip("/")).mkdir(parents=True, exist_ok=True)
        script.append(f'mount --bind "{source}" "$0{target}"')
    result = subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-ec",
         "\n".join([*script, 'exec chroot "$0" "$@"']), root, *command],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8",
             "DEBIAN_FRONTEND": "noninteractive", **(environment or {})},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    assert not check or result.returncode == 0, f"{' '.join(map(str, command))}: {result.returncode}\n{result.stdout}"
    return result


def build_deb(release: str, into: Path, *, version: str = "") -> Path:
    """Build the package from this tree with contrib/debian/build, and return its path.

    It is built once, as long as the tree stays the same.

    Args:
        release: of Debian, whose tools and Python are used.
        into: the folder where it is put.
        version: of hourd, in place of the tree's: to have something to upgrade to.
    """
    into.mkdir(parents=True, exist_ok=True)
    with _kept(f"{release}-deb{version}", functools.partial(_build, release, version), of=_digest()) as place:
        (built,) = place.iterdir()
        return Path(shutil.copy(built, into))


def install(root: Path, *packages: Path) -> str:
    """Install packages of this machine in a root, with what they depend on, and return what apt said."""
    for package in packages:
        shutil.copy(package, root / "tmp")
    said = run_in(root, *_APT, "install", *(f"/tmp/{package.name}" for package in packages)).stdout
    for package in packages:
        (root / "tmp" / package.name).unlink()
    return said


# --- how they are made ----------------------------------------------------------------------------


@contextlib.contextmanager
def _kept(name: str, make: Callable[[Path], None], *, of: str = "") -> Iterator[Path]:
    """Provide what is kept under a name, and make it first if nobody did. One at a time, also among processes.

    Args:
        name: of the folder.
        make: fills an empty folder.
        of: what it is made of; when that has changed, it is made anew.
    """
    place = _folder() / name
    with open(place.with_name(f"{name}.lock"), "a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.seek(0)
        if not place.exists() or lock.read() != of:
            lock.truncate(0)
            unfinished = place.with_name(f"{name}.unfinished")
            for old in (place, unfinished):
                shutil.rmtree(old, ignore_errors=True)
            unfinished.mkdir()
            make(unfinished)
            unfinished.rename(place)
            lock.write(of)
        yield place


def _folder() -> Path:
    folder = Path(os.environ["HOURD_TEST_ROOTS"])
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _bootstrap(release: str, place: Path) -> None:
    _run("debootstrap", "--variant=minbase", f"--include={_PACKAGES}", release, place, mirror())
    for package in place.glob("var/cache/apt/archives/*.deb"):
        package.unlink()


def _install_tools(release: str, place: Path) -> None:
    with overlay(base_root(release), changes=place) as root:
        run_in(root, *_APT, "update")
        run_in(root, *_APT, "install", *_TOOLS)
        run_in(root, "apt-get", "clean")


def _requirements() -> list[str]:
    project = tomllib.loads((TREE / "pyproject.toml").read_text())
    # pip asks the Python that it runs on, not the one it downloads for, whether the last is needed.
    return [*project["project"]["dependencies"], *project["build-system"]["requires"], "typing_extensions"]


def _download(release: str, wanted: list[str], place: Path) -> None:
    _run(
        sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "download", "--dest", place,
        "--only-binary", ":all:", "--implementation", "cp", "--python-version", PYTHON[release],
        *(f"--platform={name}_{platform.machine()}" for name in _PLATFORMS), *wanted,
    )  # fmt: skip


def _build(release: str, version: str, place: Path) -> None:
    with overlay(build_root(release), base_root(release)) as root:
        _copy_tree(root / "build/hourd", version)
        run_in(
            root, "/build/hourd/contrib/debian/build", "/build/out",
            environment={"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/build/wheels"},
            bind={wheelhouse(release): "/build/wheels"},
        )  # fmt: skip
        for built in (root / "build/out").glob("*.deb"):
            shutil.copy(built, place)


def _copy_tree(to: Path, version: str) -> None:
    to.mkdir(parents=True)
    for name in _SOURCES:
        if (TREE / name).is_dir():
            shutil.copytree(TREE / name, to / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(TREE / name, to)
    if version:
        init = to / "hourd/__init__.py"
        init.write_text(
            re.sub(r'^__version__ = ".*"$', f'__version__ = "{version}"', init.read_text(), flags=re.MULTILINE)
        )


def _digest() -> str:
    digest = hashlib.sha256()
    for name in _SOURCES:
        for path in sorted((TREE / name).rglob("*") if (TREE / name).is_dir() else [TREE / name]):
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(f"{path.relative_to(TREE)} {path.stat().st_mode} {path.stat().st_size}\n".encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()


@contextlib.contextmanager
def _mounted(lower: tuple[Path, ...], changes: Path, place: Path) -> Iterator[Path]:
    root, work = place / "root", place / "work"
    for folder in (root, work, changes):
        folder.mkdir(exist_ok=True)
    changes.chmod(0o755)  # as / is to be
    options = f"lowerdir={':'.join(map(str, lower))},upperdir={changes},workdir={work}"
    _run("mount", "-t", "overlay", "overlay", "-o", options, root)
    try:
        yield root
    finally:
        _run("umount", "--lazy", root)


def _sweep() -> None:
    """Remove what a killed run has left mounted."""
    for left in _folder().glob("overlay-*-*"):  # not what an earlier version of this file mounts
        if not Path("/proc", left.name.split("-")[1]).exists():
            subprocess.run(["umount", "--lazy", left / "root"], capture_output=True, check=False)
            if not os.path.ismount(left / "root"):
                shutil.rmtree(left, ignore_errors=True)


def _run(*command: str | Path) -> None:
    result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}: {result.returncode}\n{result.stdout}{result.stderr}")
