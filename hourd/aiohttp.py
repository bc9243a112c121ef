"""Helpers for aiohttp applications: answers, request ids, and what a route needs around its handler.

None of them is needed to be served by hourd, and a route that uses none of them pays nothing for them.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import enum
import functools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeVar, overload

import msgspec
import ujson
from aiohttp import web
from aiohttp.typedefs import LooseHeaders

from . import request_id
from .context import Worker
from .networks import Networks, parse_network

__all__ = [
    "HTML",
    "JSON",
    "Environment",
    "HTMLError",
    "JSONError",
    "RequestIdFilter",
    "add_request_id",
    "dumps",
    "environment",
]

_CONNECTION_WITHIN = 5.0
"""Seconds that a request waits for a connection to the database."""
_TELL_EVERY = 10.0
"""Seconds between two lines about requests without one: while a database is down, that are all."""
_DEEPEST = 1000
"""Steps into a value, at most, to find what cannot be JSON."""
_ERRORS = range(400, 600)
_BINARY = (bytes, bytearray, memoryview)
_logger = logging.getLogger("hourd.aiohttp")
_told: dict[str, float] = {}
"""When it was told last that requests get no connection, by the name of the engine."""

Body = TypeVar("Body")
_Given = TypeVar("_Given")
_Owner = TypeVar("_Owner")


# --- answers --------------------------------------------------------------------------------------


def dumps(value: Any, *, html_safe: bool = False) -> str:
    """Return a value as JSON.

    Besides JSON's own types it may hold dataclasses, msgspec Structs, mappings, enums, sets, UUIDs, dates and times
    (RFC 3339), and Decimals, which become strings: as numbers they would lose digits.

    Args:
        value: what is to be shown.
        html_safe: escape what could end a ``<script>`` element that this is put into.

    Raises:
        TypeError: it holds something that JSON has no notation for, NaN and bytes included; the message says where.
    """
    try:
        return _encode(value, html_safe=html_safe)
    except RecursionError:
        raise TypeError("cannot be JSON: nested too deeply, or within itself") from None
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"cannot be JSON: {_culprit(value)}") from None


class JSON(web.Response):
    """An answer in JSON: ``return JSON({"id": 1}, status=201)``."""

    def __init__(
        self, value: Any, *, status: int = 200, reason: str | None = None, headers: LooseHeaders | None = None
    ) -> None:
        """Take what ``dumps`` takes."""
        super().__init__(
            text=dumps(value), status=status, reason=reason, headers=headers, content_type="application/json"
        )


class HTML(web.Response):
    """An answer in HTML: ``return HTML("<p>Hello</p>")``."""

    def __init__(
        self, text: str, *, status: int = 200, reason: str | None = None, headers: LooseHeaders | None = None
    ) -> None:
        super().__init__(text=text, status=status, reason=reason, headers=headers, content_type="text/html")


class _AnyError(web.HTTPError):
    def __init__(
        self, status: int, text: str, content_type: str, *, reason: str | None, headers: LooseHeaders | None
    ) -> None:
        if status not in _ERRORS:
            raise ValueError(f"{status} is no status of an error, expected 400 to 599")
        self.status_code = status
        super().__init__(text=text, content_type=content_type, reason=reason, headers=headers)


class JSONError(_AnyError):
    """An HTTP error with an answer in JSON: ``raise JSONError(404, {"error": "no such note"})``."""

    def __init__(
        self, status: int, value: Any, *, reason: str | None = None, headers: LooseHeaders | None = None
    ) -> None:
        """Take what ``dumps`` takes."""
        super().__init__(status, dumps(value), "application/json", reason=reason, headers=headers)


class HTMLError(_AnyError):
    """An HTTP error with an answer in HTML: ``raise HTMLError(404, "<p>No such page</p>")``."""

    def __init__(
        self, status: int, text: str, *, reason: str | None = None, headers: LooseHeaders | None = None
    ) -> None:
        super().__init__(status, text, "text/html", reason=reason, headers=headers)


def _encode(value: Any, *, html_safe: bool) -> str:
    # By itself, ujson turns Decimals into floats, any key into a string, and calls methods such as toDict().
    plain = msgspec.to_builtins(value, str_keys=True, builtin_types=_BINARY, enc_hook=_plain)
    text = ujson.dumps(
        plain, allow_nan=False, escape_forward_slashes=False, ensure_ascii=html_safe, encode_html_chars=html_safe
    )
    text.encode()  # half a surrogate pair has no UTF-8
    return text


def _plain(value: Any) -> Any:
    """Return what a value of a derived type is."""
    for base in (str, int, float):
        if isinstance(value, base):
            return getattr(base, f"__{base.__name__}__")(value)
    if _is_like_mapping(value):
        return dict(value)
    raise TypeError


def _culprit(value: Any) -> str:
    """Say which part of a value cannot be JSON, and where it stands."""
    path = "$"
    for _ in range(_DEEPEST):  # a circle is mostly found before
        if isinstance(value, Mapping) and (bad := [key for key in value if not _is_possible({key: None})]):
            return f"{path} has a key that is a {type(bad[0]).__name__}"
        found = next(((step, part) for step, part in _parts(value) if not _is_possible(part)), None)
        if found is None:
            break
        path, value = path + found[0], found[1]
    if isinstance(value, float):
        return f"{path} is {value}"
    what = "text with half a surrogate pair" if isinstance(value, str) else f"a {type(value).__qualname__}"
    return f"{path} is {what}"


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield what a value holds, each part with the step that leads there; in a set there are no places."""
    if isinstance(value, list | tuple):
        yield from ((f"[{index}]", each) for index, each in enumerate(value))
    elif isinstance(value, set | frozenset):
        yield from (("[...]", each) for each in value)
    elif isinstance(value, enum.Enum):
        yield "", value.value
    elif isinstance(value, msgspec.Struct):
        yield from _fields(value, zip(value.__struct_encode_fields__, value.__struct_fields__, strict=True))
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from _fields(value, ((field.name, field.name) for field in dataclasses.fields(value)))
    elif _is_like_mapping(value):
        with contextlib.suppress(TypeError):  # it only looked like one
            yield from ((f"[{key}]" if isinstance(key, int) else f".{key}", each) for key, each in dict(value).items())


def _fields(value: Any, names: Iterable[tuple[str, str]]) -> Iterator[tuple[str, Any]]:
    for shown, name in names:
        if (part := getattr(value, name, msgspec.UNSET)) is not msgspec.UNSET:
            yield f".{shown}", part


def _is_like_mapping(value: Any) -> bool:
    """Tell whether it has keys; a row of a database (asyncpg, sqlite3) is no Mapping, but is like one."""
    return isinstance(value, Mapping) or (hasattr(type(value), "keys") and hasattr(type(value), "__getitem__"))


def _is_possible(value: Any) -> bool:
    try:
        _encode(value, html_safe=False)
    except (TypeError, ValueError, OverflowError):
        return False
    except RecursionError:
        return True  # it is not what was complained of
    return True


# --- request ids ----------------------------------------------------------------------------------


def add_request_id(app: web.Application, *, trusted: Iterable[str] = ()) -> None:
    """Give each request an id, for ``hourd.request_id.current()`` and logs, and its answer the header ``X-Request-ID``.

    Args:
        app: the outermost application, before it serves.
        trusted: whose own ``X-Request-ID`` is taken: addresses, networks, ``unix``. It is who connects that
            counts, not what a proxy says; ids that are too long or of unusual characters are replaced. An id that
            the server has taken over already, from a proxy that it trusts, stays.
    """
    networks = Networks(map(parse_network, trusted))

    @web.middleware
    async def middleware(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        # Never reset: aiohttp logs a handler's exception afterwards. The connection's next request has its own.
        if networks and networks.has_peer(_peer(request)):
            request_id.begin(request.headers.getall(request_id.HEADER, [None])[-1])
        request_id.enter()
        return await handler(request)

    app.middlewares.insert(0, middleware)
    app.on_response_prepare.append(_add_header)


class RequestIdFilter(logging.Filter):
    """Gives log records ``request_id``, for formats of one's own; ``-`` outside of requests."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.request_id = request_id.known() or "-"
        return True


async def _add_header(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers[request_id.HEADER] = request_id.current()


def _peer(request: web.Request) -> Any:
    return request.transport.get_extra_info("peername") if request.transport else None


# --- environments ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Environment(Generic[Body]):
    """What a handler was promised."""

    json: Body
    """The request's body, parsed; ``None`` unless asked for."""
    connection: Any
    """A connection to the database, in a transaction; ``None`` unless asked for."""


class _Wrap(Protocol[Body]):
    @overload
    def __call__(
        self, handler: Callable[[_Given, Environment[Body]], Awaitable[web.StreamResponse]]
    ) -> Callable[[_Given], Coroutine[Any, Any, web.StreamResponse]]: ...
    @overload
    def __call__(
        self, handler: Callable[[_Owner, _Given, Environment[Body]], Awaitable[web.StreamResponse]]
    ) -> Callable[[_Owner, _Given], Coroutine[Any, Any, web.StreamResponse]]: ...


@overload
def environment(*, json: Literal[False] = False, transaction: str) -> _Wrap[None]: ...
@overload
def environment(*, json: Literal[True], transaction: str | None = None) -> _Wrap[Any]: ...
@overload
def environment(*, json: type[Body], transaction: str | None = None) -> _Wrap[Body]: ...
def environment(*, json: Any = False, transaction: str | None = None) -> Any:
    """Give a handler, as its last argument, an ``Environment``.

    It may be a function of ``(request, environment)``, a method of ``(self, request, environment)``, or a method of a
    class-based view, of ``(self, environment)``.

    Args:
        json: parse the body, which must be declared as JSON (415) and be JSON (400); if a type is given, such as a
            msgspec Struct, it must also be of that type (422). The answers to others say what is wrong, in JSON.
        transaction: the name of a PostgreSQL engine in ``worker.state``. A transaction is begun once the body has been
            read. An answer with a status below 400, returned or raised, commits it, before anything is sent unless the
            handler itself has begun to. Anything else rolls it back: an error, an exception, the end of the worker's
            grace, or a client that is gone by then. Without a connection to the database the answer is 503.
    """
    if json is False and transaction is None:
        raise TypeError("environment() was asked for nothing: neither json nor transaction")
    decoder = None if json is False else msgspec.json.Decoder(Any if json is True else json)
    failures = _failures() if transaction else ()

    def wrap(handler: Callable[..., Awaitable[web.StreamResponse]]) -> Callable[..., Any]:
        @functools.wraps(handler)
        async def wrapped(*given: Any) -> web.StreamResponse:
            request: web.Request = given[-1] if isinstance(given[-1], web.Request) else given[-1].request
            body = await _read(request, decoder) if decoder else None
            if transaction is None:
                return await handler(*given, Environment(body, None))
            async with _begun(transaction, failures) as (connection, begun):
                return await _transact(request, begun, lambda: handler(*given, Environment(body, connection)))

        return wrapped

    return wrap


async def _read(request: web.Request, decoder: msgspec.json.Decoder[Any]) -> Any:
    kind = request.content_type
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise _bad(415, f"the body has to be application/json, not {kind}")
    if (charset := request.charset or "utf-8").lower() not in ("utf-8", "utf8", "us-ascii"):
        raise _bad(415, f"the body has to be in UTF-8, not {charset}")
    try:
        body = await request.read()
    except web.HTTPRequestEntityTooLarge as error:
        raise _bad(413, error.text or error.reason) from None
    except web.RequestPayloadError:
        raise _bad(400, "the body does not arrive as its headers say") from None
    if not body:
        raise _bad(400, "the body is empty, expected JSON")
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _bad(422, str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _bad(400, str(error)) from None
    except RecursionError:
        raise _bad(400, "JSON is nested too deeply") from None


def _bad(status: int, why: str) -> JSONError:
    return JSONError(status, {"error": why})


def _failures() -> tuple[type[Exception], ...]:
    """Return what tells that there is no connection; anything else is a mistake in code."""
    try:
        # Where routes are made, so that it is imported once, before workers are forked.
        import asyncpg  # noqa: PLC0415, an optional extra
    except ModuleNotFoundError:
        return (OSError,)
    return OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError


@contextlib.asynccontextmanager
async def _begun(name: str, failures: tuple[type[Exception], ...]) -> AsyncIterator[tuple[Any, Any]]:
    """Lend a connection of the pool that the worker's state has under a name, and a transaction that is begun on it."""
    state = Worker.current().state
    pool = state.get(name) if isinstance(state, Mapping) else getattr(state, name, None)
    if pool is None:
        raise RuntimeError(f"transaction={name!r}: worker.state has no {name}; the pool's lifespan has to open it")
    if not hasattr(pool, "acquire"):
        what = type(pool).__qualname__
        raise TypeError(f"transaction={name!r}: worker.state has a {what} there, expected the pool of a database")
    try:
        connection = await pool.acquire(timeout=_CONNECTION_WITHIN)
    except failures as error:
        raise _unavailable(name, error) from None
    try:
        transaction = connection.transaction()
        try:
            await transaction.start()
        except failures as error:  # the server has ended the connection while nobody used it
            raise _unavailable(name, error) from None
        yield connection, transaction
    finally:
        await pool.release(connection)


def _unavailable(name: str, error: Exception) -> JSONError:
    """Say that a request gets no connection, but not for each of them; returns its answer."""
    now = asyncio.get_running_loop().time()
    if name not in _told or now - _told[name] >= _TELL_EVERY:
        _told[name] = now
        late = isinstance(error, TimeoutError) and f"none within {_CONNECTION_WITHIN:g}s"
        why = late or str(error) or type(error).__name__
        _logger.warning("no connection to %s for a request: %s (told every %gs at most)", name, why, _TELL_EVERY)
    return _bad(503, "the database cannot be reached")


async def _transact(
    request: web.Request, transaction: Any, handle: Callable[[], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        response = await handle()
    except web.HTTPException as answer:
        await _end(request, transaction, answer)
        raise
    except BaseException:
        await _roll_back(transaction)
        raise
    if isinstance(response, web.StreamResponse):
        await _end(request, transaction, response)
    else:
        await _roll_back(transaction)  # aiohttp says what is wrong: a return is missing, say
    return response


async def _end(request: web.Request, transaction: Any, response: web.StreamResponse) -> None:
    """Commit what a client will hear of; one that is gone before that is likely to ask again."""
    gone = request.transport is None and not response.prepared
    if response.status < _ERRORS.start and not gone:
        await transaction.commit()
    else:
        await _roll_back(transaction)


async def _roll_back(transaction: Any) -> None:
    # The connection may be what failed. Then there is nothing to roll back, and that is not the error to tell of.
    with contextlib.suppress(Exception):
        await transaction.rollback()
