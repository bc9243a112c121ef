"""What can be configured: typed, with every default in its place, and no I/O.

``config.py`` turns YAML into these types and checks every rule written here. The same types travel
to molds and workers, so a field may be added and must not change its meaning.

Markers that ``config.py`` reads from ``Meta.extra``:

``unit``    how the value is written (``duration``, ``size``, ``share``) or which form it has
            (``address``, ``reference``, ``mode``, ``network``, ``file``)
``least``   the least value of a duration, a power of ten: seconds; with ``why`` a reason that a refusal adds
``hidden``  set by hourd, not by users
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

from .networks import Network
from .units import Duration, Share, Size

Address = Annotated[
    str,
    Meta(
        extra={"unit": "address"},
        examples=["0.0.0.0:8080", "[::1]:8080", ":8080", "udp::53", "unix:/run/hello.sock", "unix:@hello"],
    ),
]
"""``HOST:PORT``, ``[::1]:PORT``, ``:PORT`` (every interface, IPv4 and IPv6), with ``udp:`` before it for datagrams;
``unix:/path``, ``unix:@abstract``."""

Reference = Annotated[str, Meta(extra={"unit": "reference"}, examples=["hello.web:create_app"])]
"""``module:object``, where object may have dots."""

Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
"""A name that is safe in titles, logs, metrics and file names."""

File = Annotated[str, Meta(extra={"unit": "file"}, examples=["/etc/hello/cert.pem"])]
"""The path of a file that is there; relative ones start at the configuration's folder."""

HostName = Annotated[str, Meta(pattern=r"^(\*\.)?[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9])?$")]
"""A name that clients ask for, or ``*.`` and a name for all that have one label before it; in ASCII (``xn--``)."""

AlpnName = Annotated[str, Meta(pattern=r"^[!-~]{1,255}$")]
"""A protocol's name in TLS (RFC 7301): what is registered is in ASCII, and OpenSSL takes no more bytes."""

WORKERS_MAX = 1024
"""Of one pool."""
FAILURES_MAX = 1_000_000
"""So many are remembered at most; more could never be counted."""

Hidden = Annotated[str, Meta(extra={"hidden": True})]
Places = Annotated[dict[str, str], Meta(extra={"hidden": True})]
"""Where each key stands, and the whole of its name, as mistakes begin: some are found only where files are read."""


class UnixSocket(Struct, frozen=True, kw_only=True):
    """Who may connect to the server's unix sockets."""

    mode: Annotated[int, Meta(extra={"unit": "mode"}, description="permission bits, octal")] = 0o666
    owner: Annotated[str | None, Meta(description="user that owns the file; only root may set it")] = None
    group: Annotated[str | None, Meta(description="group of the file")] = None


class Certificate(Struct, frozen=True, kw_only=True):
    """A certificate and its private key, in PEM."""

    certificate: Annotated[File, Meta(description="the certificate; what comes after it in the file is its chain")]
    key: Annotated[File | None, Meta(description="its private key; default: it is in the certificate's file")] = None
    chain: Annotated[File | None, Meta(description="intermediate certificates, if the first file has none")] = None
    places: Places = {}


class Tls(Certificate, frozen=True, kw_only=True):
    """TLS. Files that are replaced are noticed within seconds, and serve connections from then on."""

    sni: Annotated[
        dict[HostName, Certificate], Meta(description="further certificates, by the name that a client asks for")
    ] = {}
    client_ca: Annotated[File | None, Meta(description="who signs the certificates of clients")] = None
    client_certificates: Annotated[
        Literal["required", "optional"] | None,
        Meta(description="whether clients must have one; default: they must, if there is a client_ca"),
    ] = None
    minimum: Annotated[Literal["TLSv1.2", "TLSv1.3"], Meta(description="the oldest version that is spoken")] = "TLSv1.2"
    ciphers: Annotated[str | None, Meta(description="of TLSv1.2, as openssl-ciphers(1) has them")] = None
    alpn: Annotated[tuple[AlpnName, ...], Meta(description="protocols to offer; default: what the kind speaks")] = ()


class ProxyProtocol(Struct, frozen=True, kw_only=True):
    """The PROXY protocol, version 1 or 2, which balancers put before a connection to say whose it is."""

    trusted: Annotated[
        tuple[Network, ...],
        Meta(description="who sends it, always; from others, nothing is taken for it", min_length=1),
    ] = field(name="from")


class Server(Struct, frozen=True, kw_only=True):
    """One asyncio server, run by every worker of its pool."""

    kind: Annotated[str, Meta(description="a kind of `hourd kinds`, or module:object of your own")]
    app: Annotated[Reference | None, Meta(description="the application, or what makes it")] = None
    bind: Annotated[tuple[Address, ...], Meta(description="where it listens, one or a list", min_length=1)]
    backlog: Annotated[int, Meta(ge=1, le=65535, description="connections or datagrams that may wait in a slot")] = 2048
    unix: Annotated[UnixSocket, Meta(description="mode and owner of its unix sockets")] = UnixSocket()
    grace: Annotated[Duration, Meta(description="how long connections may finish once a worker drains")] = 30.0
    tls: Annotated[Tls | None, Meta(description="encrypt its connections")] = None
    proxy_protocol: Annotated[ProxyProtocol | None, Meta(description="balancers in front say who connects")] = None
    options: Annotated[dict[str, Any], Meta(description="what the kind itself takes")] = {}
    where: Hidden = ""


class Timeouts(Struct, frozen=True, kw_only=True):
    """How long a worker may take."""

    boot: Annotated[
        Duration, Meta(extra={"least": 0.1}, description="to import the application, and to become ready")
    ] = 60.0
    slow: Annotated[
        Duration,
        Meta(
            extra={"least": 0.1, "why": "workers give their signs of life more seldom"},
            description="without a sign of life, until siblings attend its slot too",
        ),
    ] = 1.0
    hung: Annotated[Duration, Meta(description="without a sign of life, until it is killed and replaced")] = 30.0


class GivingUp(Struct, frozen=True, kw_only=True):
    """When a pool counts as degraded."""

    failures: Annotated[int, Meta(ge=1, le=FAILURES_MAX)] = 5
    within: Annotated[Duration, Meta(extra={"least": 0.1, "why": "who served for longer has not failed"})] = 60.0


class Restart(Struct, frozen=True, kw_only=True):
    """How fast what crashed is started again: at once the first time, then with growing delay."""

    backoff: Annotated[
        Duration,
        Meta(
            extra={"least": 0.01, "why": "nothing would slow down what always fails"},
            description="delay before the second restart in a row; doubles",
        ),
    ] = 0.1
    backoff_max: Duration = 30.0
    giving_up: GivingUp = GivingUp()


class Recycle(Struct, frozen=True, kw_only=True):
    """When a worker has served its time and is replaced, its successor first."""

    requests: Annotated[int, Meta(ge=1)] | None = None
    connections: Annotated[int, Meta(ge=1, description="accepted ones")] | None = None
    age: Duration | None = None
    memory: Annotated[Size, Meta(description="private memory: what is shared with the mold does not count")] | None = (
        None
    )
    jitter: Annotated[Share, Meta(description="by which chance may lower each limit")] = 0.1

    @property
    def limited(self) -> bool:
        """Whether there is any limit."""
        return any(limit is not None for limit in (self.requests, self.connections, self.age, self.memory))


class Range(Struct, frozen=True, kw_only=True):
    """As many workers as the load needs."""

    min: Annotated[int, Meta(ge=1, le=WORKERS_MAX)]
    max: Annotated[int, Meta(ge=1, le=WORKERS_MAX)]


class Pool(Struct, frozen=True, kw_only=True):
    """Identical workers, each running all servers of the pool in one event loop."""

    workers: Annotated[
        Annotated[int, Meta(ge=1, le=WORKERS_MAX)] | Literal["auto"] | Range,
        Meta(description="how many; auto: the CPUs this process may use (affinity and cgroup quota); {min, max}"),
    ] = "auto"
    preload: Annotated[bool, Meta(description="import the application once, before forking")] = True
    loop: Literal["uvloop", "asyncio"] = "uvloop"
    lifespan: Annotated[Reference | None, Meta(description="async context manager around the worker's life")] = None
    servers: Annotated[dict[Name, Server], Meta(min_length=1)]
    timeouts: Timeouts = Timeouts()
    restart: Restart = Restart()
    recycle: Recycle = Recycle()


class Log(Struct, frozen=True, kw_only=True):
    """What is logged, and how it looks. hourd logs to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json", "journal"] = "text"
    config: Annotated[
        dict[str, Any] | None,
        Meta(description="a logging.config.dictConfig mapping for molds and workers; the master keeps to stderr"),
    ] = None


class Settings(Struct, frozen=True, kw_only=True):
    """A daemon, whole."""

    name: Annotated[Name, Meta(description="in titles, logs and metrics; default: the file's stem")]
    directory: Annotated[str, Meta(description="working directory, put first on sys.path; relative to this file")]
    user: Annotated[
        str | None, Meta(description="workers and all user code run as this user; only root may set it")
    ] = None
    group: str | None = None
    environment: Annotated[dict[str, str], Meta(description="added to the environment of molds and workers")] = field(
        default_factory=dict
    )
    control: Annotated[str | None, Meta(description="path of the control socket")] = None
    pid_file: str | None = None
    log: Log = Log()
    pools: Annotated[dict[Name, Pool], Meta(min_length=1)]
