"""The command line."""

from __future__ import annotations

from . import first  # noqa: F401, before what takes its time

# isort: split
import functools
import glob
import json
import os
import select
import sys
import traceback
from collections.abc import Callable
from typing import Any

import click

from . import __version__, config, control, daemon, errors, kinds, table
from .config.overrides import Overrides
from .settings import WORKERS_MAX, Settings

_DEFAULT_FILE = "/etc/hourd.yaml"

Command = Callable[..., Any]


class Group(click.Group):
    """Ends with the exit code of a ``HourdError`` after printing it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), "import"])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name == "import":
            from .importing import commands  # noqa: PLC0415, the master is to stay small

            return commands.group
        return super().get_command(ctx, cmd_name)

    def main(self, *args: Any, **kwargs: Any) -> Any:
        _open_standard_files()
        return super().main(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except errors.HourdError as error:
            click.echo(str(error), err=True)
            sys.exit(error.exit_code)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception:  # noqa: BLE001, a bug of ours has its own exit code
            traceback.print_exc()
            sys.exit(errors.EXIT_INTERNAL)


def _open_standard_files() -> None:
    """Put /dev/null where 0, 1 or 2 are closed: else a socket of ours would get that number, and the log with it."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            # Takes the lowest free number; molds and workers are to have it too.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="hourd")
def main() -> None:
    """Supervise asyncio servers: keep N workers alive, reload without losing a connection."""


_file = click.option(
    "-c", "--config", "file", envvar="HOURD_CONFIG", metavar="FILE",
    help=f"Configuration.  [default: {_DEFAULT_FILE}, if it exists]",
)  # fmt: skip


def _settings_options(command: Command) -> Command:
    """Add what start and check have in common: the application or file, and what overrides it."""
    for option in reversed(
        (
            click.argument("app", required=False, envvar="HOURD_APP"),
            _file,
            click.option("--kind", envvar="HOURD_KIND", default=config.DEFAULT_KIND, show_default=True,
                         help="Kind of APP; see hourd kinds."),
            click.option("--bind", envvar="HOURD_BIND", multiple=True, metavar="ADDRESS",
                         help="Where to listen: HOST:PORT, :PORT, unix:/path. May be repeated."),
            click.option("--workers", envvar="HOURD_WORKERS", metavar="N", help="Workers of the first pool, or auto."),
            click.option("--name", envvar="HOURD_NAME", help="Name in titles, logs and metrics."),
            click.option("--directory", envvar="HOURD_DIRECTORY", help="Working directory, put first on sys.path."),
            click.option("--user", envvar="HOURD_USER", help="Run workers as this user."),
            click.option("--group", envvar="HOURD_GROUP", help="Run workers as this group."),
            click.option("--control", envvar="HOURD_CONTROL", metavar="PATH", help="Control socket."),
            click.option("--pid-file", envvar="HOURD_PID_FILE", metavar="PATH", help="Write the master's process id."),
            click.option("--log-level", envvar="HOURD_LOG_LEVEL", help="debug, info, warning or error."),
            click.option("--log-format", envvar="HOURD_LOG_FORMAT", help="text, json or journal."),
        )
    ):  # fmt: skip
        command = option(command)
    return command


def _reader(app: str | None, file: str | None, kind: str, **given: Any) -> Callable[[], config.Loaded]:
    """Return what reads the configuration: from a file, or from APP and options."""
    overrides = Overrides(**given)
    if app and file:
        raise click.UsageError("give either APP or --config, not both")
    if app:
        return lambda: config.from_app(app, environ=os.environ, overrides=overrides, kind=kind)
    if kind != config.DEFAULT_KIND:
        raise click.UsageError("--kind goes with APP; in a file, each server has its kind")
    path = file or _default_file()
    if path is None:
        raise click.UsageError(f"nothing to run: give -c FILE or APP (there is no {_DEFAULT_FILE})")
    return lambda: config.load(path, environ=os.environ, overrides=overrides)


def _default_file() -> str | None:
    return _DEFAULT_FILE if os.path.exists(_DEFAULT_FILE) else None


@main.command()
@_settings_options
def start(**given: Any) -> None:
    """Run in the foreground until stopped.

    APP is module:object; without it, a configuration file says what to run.
    """
    read = _reader(**given)

    def settings() -> Settings:
        return read().settings

    sys.exit(daemon.run(settings))


@main.command()
@_settings_options
@click.option("--print", "print_", is_flag=True, help="Print the effective configuration; secrets stay references.")
@click.option("--import", "import_", is_flag=True, help="Also import every application, in a child process.")
def check(*, print_: bool, import_: bool, **given: Any) -> None:
    """Validate the configuration; report every mistake."""
    from . import certificates  # noqa: PLC0415, the master has no use for ssl

    loaded = _reader(**given)()
    for warning in certificates.check(loaded.settings):
        click.echo(warning, err=True)
    if import_:
        from . import trial  # noqa: PLC0415, only this command needs it

        trial.run(loaded.settings)
    if print_:
        from .config import printing  # noqa: PLC0415, the master is to stay small

        click.echo(printing.to_yaml(loaded), nl=False)
    else:
        click.echo("the configuration is right")


@main.command()
def schema() -> None:
    """Print the JSON Schema of the configuration, for editors."""
    from .config import schema as schemas  # noqa: PLC0415, the master is to stay small

    click.echo(json.dumps(schemas.json_schema(), indent=2))


@main.command("kinds")
def list_kinds() -> None:
    """List the kinds of server that can be run."""
    for name in kinds.names():
        entry = kinds.find(name)
        summary = entry.summary if entry else ""
        needs = f"  (pip install 'hourd[{entry.extra}]')" if entry and entry.extra else ""
        click.echo(f"{name:<12} {summary}{needs}")


def _talks(command: Command) -> Command:
    """Add the ways to find a running daemon, and give the command its control socket's path."""

    @_file
    @click.option("--name", envvar="HOURD_NAME", help="Name of the daemon, if its file does not tell.")
    @click.option("--control", "place", envvar="HOURD_CONTROL", metavar="PATH", help="Control socket of the daemon.")
    @functools.wraps(command)
    def found(file: str | None, name: str | None, place: str | None, **given: Any) -> Any:
        return command(path=place or _find(file, name), **given)

    return found


def _find(file: str | None, name: str | None) -> str:
    """Return the control socket of the daemon of a file or name, or of the only daemon there is."""
    folders = config.control_folders(os.environ)
    path = file or _default_file()
    if path is not None:
        own_name, control_path = config.identify(path, environ=os.environ)
        if control_path:
            return control_path
        name = name or own_name
    if name:
        places = [os.path.join(folder, f"{name}.sock") for folder in folders]
        return next(filter(os.path.exists, places), places[0])
    places = sorted(place for folder in folders for place in glob.glob(os.path.join(glob.escape(folder), "*.sock")))
    if len(places) == 1:
        return places[0]
    found = f"there are several daemons ({', '.join(places)})" if places else f"no daemon is in {' or '.join(folders)}"
    raise errors.RefusedError(f"{found}; say which: -c FILE, --name NAME or --control PATH")


@main.command()
@_talks
@click.option("--json", "json_", is_flag=True, help="As JSON.")
def status(*, path: str, json_: bool) -> None:
    """Show what runs."""
    answer = control.ask(path, control.Request("status"), timeout=10)
    if not (answer.ok and isinstance(answer.status, dict) and "pools" in answer.status):
        raise errors.RefusedError(f"no status from {path}: {answer.error or 'it is no hourd'}")
    click.echo(json.dumps(answer.status) if json_ else table.render(answer.status))


@main.command()
@_talks
def reload(*, path: str) -> None:
    """Reload configuration and code, and wait for the result."""
    answer = control.ask(path, control.Request("reload"))
    if not answer.ok:
        raise errors.RefusedError(f"reload refused, the old generation serves on: {answer.error.strip()}")
    click.echo(f"reloaded to generation {answer.generation} in {answer.seconds:.2f}s")


@main.command()
@_talks
def upgrade(*, path: str) -> None:
    """Go on with the hourd that is installed now: same process, same workers; then reload."""
    answer = control.ask(path, control.Request("upgrade"))
    if not answer.version:
        raise errors.RefusedError(f"upgrade refused, the running hourd goes on: {answer.error.strip()}")
    if not answer.ok:
        raise errors.RefusedError(f"upgraded to hourd {answer.version}, but the reload failed: {answer.error.strip()}")
    click.echo(f"upgraded to hourd {answer.version}; reloaded to generation {answer.generation}")


@main.command()
@_talks
@click.argument("pool")
@click.argument("workers", type=click.IntRange(1, WORKERS_MAX))
def scale(*, path: str, pool: str, workers: int) -> None:
    """Change a pool's number of workers, until the next reload."""
    answer = control.ask(path, control.Request("scale", pool=pool, workers=workers), timeout=10)
    if not answer.ok:
        raise errors.RefusedError(answer.error)
    click.echo(f"pool {pool}: {workers} workers wanted")


@main.command()
@_talks
@click.option("--now", is_flag=True, help="Cut all connections.")
@click.option("--hand-over", is_flag=True, help="Leave sockets, and who waits there, to systemd for the next start.")
def stop(*, path: str, now: bool, hand_over: bool) -> None:
    """Stop the daemon and wait for its end."""
    control.ask(path, control.Request("status"), timeout=10)  # says best what is wrong, if something is
    process = control.watch(path)
    answer = control.ask(path, control.Request("stop", now=now, hand_over=hand_over), timeout=10)
    if not answer.ok:
        raise errors.RefusedError(answer.error)
    poll = select.poll()
    poll.register(process, select.POLLIN)
    poll.poll()
