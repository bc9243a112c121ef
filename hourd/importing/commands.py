"""``hourd import``: the commands."""

from __future__ import annotations

import os
import tempfile

import click

from .. import errors
from .draft import Draft

_output = click.option(
    "--output", metavar="FILE", help="Write it there, for its owner only.  [default: standard output]"
)
_force = click.option("--force", is_flag=True, help="Overwrite the output file.")


@click.group("import")
def group() -> None:
    """Turn the configuration of another server into one of hourd.

    What has no counterpart is told on standard error and in the result, with the reason. Files in Python are
    executed, in a process of their own, as their server does it.
    """


@group.command("gunicorn")
@click.argument("conf")
@click.argument("app", required=False)
@_output
@_force
def import_gunicorn(*, conf: str, app: str | None, output: str | None, force: bool) -> None:
    """Turn CONF, a configuration file of Gunicorn, into one of hourd.

    APP is module:object, if CONF has no wsgi_app.
    """
    from . import gunicorn  # noqa: PLC0415, the master is to stay small

    draft = gunicorn.convert(conf, app)
    if os.environ.get("GUNICORN_CMD_ARGS"):
        draft.note("GUNICORN_CMD_ARGS", "is in the environment and was not read: put what it says into the file")
    _write(draft, output, force=force)


@group.command("api-hour")
@click.argument("folder", metavar="DIR")
@click.argument("app", required=False)
@_output
@_force
def import_api_hour(*, folder: str, app: str | None, output: str | None, force: bool) -> None:
    """Turn gunicorn_conf.py, logging.ini and main.yaml in DIR, or in its etc, into one file.

    APP is module:Container; without it, it is guessed.
    """
    from . import api_hour  # noqa: PLC0415, as above

    _write(api_hour.convert(folder, app), output, force=force)


def _write(draft: Draft, output: str | None, *, force: bool) -> None:
    text = draft.to_yaml()
    for note in draft.notes:
        click.echo(note, err=True)
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        _save(text, output, force=force)
    except FileExistsError:
        raise errors.RefusedError(f"{output} exists; --force overwrites it") from None
    except OSError as error:
        raise errors.from_os(error, f"write {output}") from None


def _save(text: str, path: str, *, force: bool) -> None:
    """Write a file for its owner only: it may hold the passwords of the other configuration.

    Raises:
        FileExistsError: there is one, and it is not to be overwritten.
        OSError: it cannot be written.
    """
    if not (force and os.path.lexists(path)):
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
    elif os.path.exists(path) and not os.path.isfile(path):  # /dev/stdout is to stay what it is
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    else:
        # Who may read the old file, or has it open, is not to read the new one.
        path = os.path.realpath(path)
        with tempfile.NamedTemporaryFile("w", dir=os.path.dirname(path), encoding="utf-8", delete=False) as file:
            try:
                file.write(text)
                file.flush()
                os.replace(file.name, path)
            except BaseException:
                os.unlink(file.name)
                raise
