"""The certificates of a server: read, and checked such that each mistake names its key and file.

The master does not read them (it has no ``ssl``, and another user): it only looks whether the files are there.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import errno
import os
import pwd
import re
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

from . import errors, files, settings

C = TypeVar("C", bound=ssl.SSLContext)
Stamp = tuple[int, ...] | None
"""What changes with a file; ``None`` for one that is not there."""

_DAY: Final = 86400.0
_SOON: Final = 14 * _DAY
"""Seconds before its end from which a certificate is warned of, once a day."""
_FILE_MAX: Final = 4 * 1024 * 1024
_CERTIFICATE: Final = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_KEY: Final = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----")
_NOT_THERE: Final = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
_MISFITS: Final = ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH")
_VERSION_TAG: Final = 0xA0
_UTC_TIME: Final = 0x17
_LONG: Final = 0x80
_VERSIONS: Final = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """Certificates that were found right."""

    context: ssl.SSLContext
    """For whoever asks for no name, or for one that is not known."""
    named: Mapping[str, ssl.SSLContext]
    content: Mapping[str, bytes]
    """Of the files, by path."""
    stamps: tuple[Stamp, ...]
    ends: Mapping[str, float]
    """When each certificate ends, by path, in seconds since 1970."""

    def choose(self, name: str | None) -> ssl.SSLContext:
        """Return the context for a name that a client asks for."""
        if not name or not self.named:
            return self.context
        name = name.lower().rstrip(".")
        wildcard = f"*.{name.partition('.')[2]}"
        return self.named.get(name) or self.named.get(wildcard) or self.context


def load(tls: settings.Tls) -> Loaded:
    """Read everything.

    Raises:
        errors.ConfigError: something is wrong; the text names key and file.
        errors.NoPermissionError: this process may not read one of the files.
        errors.SystemRefusedError: the files may be right, but not now for this process.
    """
    try:
        return _load_all(tls)
    except (OSError, MemoryError) as error:
        why = getattr(error, "strerror", None) or str(error) or "no memory is left"
        where = f"{_place(tls, 'certificate')}: {tls.certificate}"
        raise errors.SystemRefusedError(f"{where} cannot be read: {why}") from None


def _load_all(tls: settings.Tls) -> Loaded:
    before = stamps(tls)
    content = {path: _read(path, place) for path, place in _files(tls)}
    context = prepare(_new(), tls, tls, content)
    named = {name.lower(): prepare(_new(), tls, each, content) for name, each in tls.sni.items()}
    ends = {each.certificate: _end(content[each.certificate]) for each in (tls, *tls.sni.values())}
    loaded = Loaded(context=context, named=named, content=content, stamps=before, ends=ends)
    if named:
        context.sni_callback = _chooser(loaded)
    return loaded


def check(every: settings.Settings) -> list[str]:
    """Read the certificates of all servers; returns warnings.

    Raises:
        errors.HourdError: with a line for each server that has none to serve with.
    """
    mistakes: list[errors.HourdError] = []
    warnings: list[str] = []
    for tls in (server.tls for pool in every.pools.values() for server in pool.servers.values() if server.tls):
        try:
            warnings += ending(tls, load(tls), time.time())
        except errors.HourdError as error:
            mistakes.append(error)
    if mistakes:
        worst = max(mistakes, key=lambda error: error.exit_code)
        raise type(worst)("\n".join(map(str, mistakes)))
    return warnings


def ending(tls: settings.Tls, loaded: Loaded, now: float) -> Iterator[str]:
    """Yield a sentence for each certificate that has ended, or ends soon.

    Args:
        tls: what was loaded.
        loaded: its certificates.
        now: seconds since 1970.
    """
    for each in (tls, *tls.sni.values()):
        left = loaded.ends[each.certificate] - now
        at = dt.datetime.fromtimestamp(loaded.ends[each.certificate], dt.UTC).strftime("%Y-%m-%d %H:%M UTC")
        if left <= 0:
            yield f"{_place(each, 'certificate')}: the certificate {each.certificate} has expired, at {at}"
        elif left < _SOON:
            days = f"in {left / _DAY:.0f} days, at {at}"
            yield f"{_place(each, 'certificate')}: the certificate {each.certificate} expires {days}"


def _chooser(loaded: Loaded) -> Callable[[ssl.SSLObject, str | None, ssl.SSLContext], None]:
    """Return what OpenSSL asks for the certificate of a name: an ``SSLContext.sni_callback``."""

    def choose(connection: ssl.SSLObject, name: str | None, given: ssl.SSLContext) -> None:
        wanted = loaded.choose(name)
        if wanted is not given:
            connection.context = wanted

    return choose


def _files(tls: settings.Tls) -> Iterator[tuple[str, str]]:
    """Yield every file, with where it is configured."""
    for each in (tls, *tls.sni.values()):
        for key in ("certificate", "key", "chain"):
            if path := getattr(each, key):
                yield path, _place(each, key)
    if tls.client_ca:
        yield tls.client_ca, _place(tls, "client_ca")


def _place(each: settings.Certificate, key: str) -> str:
    return each.places.get(key) or each.places.get("certificate") or f"tls.{key}"


def stamps(tls: settings.Tls) -> tuple[Stamp, ...]:
    """Return what tells whether any of the files was replaced; costs a system call each."""
    return tuple(_stamp(path) for path, _ in _files(tls))


def _stamp(path: str) -> Stamp:
    """Return what tells a file from the one before it. Links are followed: mostly, one of them is swapped."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    # The last one changes when somebody is allowed to read it.
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _read(path: str, place: str) -> bytes:
    try:
        return files.read(path, _FILE_MAX)
    except PermissionError:
        advice = "workers read it as their own user: let that one read it, and enter the folders above it"
        raise errors.NoPermissionError(f"{place}: user {_me()} may not read {path}; {advice}") from None
    except files.UnusableError as error:
        raise errors.ConfigError(f"{place}: {path} {error}") from None
    except OSError as error:
        kind = errors.ConfigError if error.errno in _NOT_THERE else errors.SystemRefusedError
        raise kind(f"{place}: {path} cannot be read: {error.strerror}") from None


def _me() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _new() -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)


def prepare(context: C, tls: settings.Tls, each: settings.Certificate, content: Mapping[str, bytes]) -> C:
    """Give a new context of a server one of the certificates, and return it; as ``load``."""
    context.minimum_version = _VERSIONS[tls.minimum]
    context.options |= ssl.OP_NO_RENEGOTIATION
    if tls.ciphers:
        try:
            context.set_ciphers(tls.ciphers)
        except ssl.SSLError:
            raise errors.ConfigError(f"{_place(tls, 'ciphers')}: OpenSSL knows no cipher of {tls.ciphers!r}") from None
    if tls.client_ca:
        _trust(context, tls, content[tls.client_ca])
    _check(each, content)
    _load(context, each, content)
    return context


def _trust(context: ssl.SSLContext, tls: settings.Tls, authorities: bytes) -> None:
    optional = tls.client_certificates == "optional"
    context.verify_mode = ssl.CERT_OPTIONAL if optional else ssl.CERT_REQUIRED
    try:
        _trust_all(context, authorities)
    except ValueError:
        raise errors.ConfigError(
            f"{_place(tls, 'client_ca')}: {tls.client_ca} has no valid certificates (PEM)"
        ) from None


def _trust_all(context: ssl.SSLContext, pem: bytes) -> None:
    """Have a context trust the certificates of a file. Raises ``ValueError`` where one is none, or there are none."""
    found = _CERTIFICATE.findall(pem)
    if not found:
        raise ValueError
    try:
        context.load_verify_locations(cadata=b"\n".join(found).decode("ascii"))
    except ssl.SSLError:
        raise ValueError from None


def _check(each: settings.Certificate, content: Mapping[str, bytes]) -> None:
    """Look at each file by itself: OpenSSL says no more than that something is wrong with one of them."""
    for key, path in (("certificate", each.certificate), ("chain", each.chain)):
        try:
            if path:
                _trust_all(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), content[path])
        except ValueError:
            raise errors.ConfigError(f"{_place(each, key)}: {path} has no valid certificate (PEM)") from None
    if not _KEY.search(content[each.key or each.certificate]):
        lacks = f"{each.key or each.certificate} has no private key (PEM)"
        raise errors.ConfigError(f"{_place(each, 'key')}: {lacks}{'' if each.key else '; set key'}")


def _load(context: ssl.SSLContext, each: settings.Certificate, content: Mapping[str, bytes]) -> None:
    key = each.key or each.certificate
    chain = content[each.chain] if each.chain else b""
    try:
        # Python takes paths only, and the files may be others by now.
        with _in_memory(content[each.certificate] + b"\n" + chain) as pem, _in_memory(content[key]) as secret:
            context.load_cert_chain(pem, secret, password=_refuse_password)
    except _EncryptedError:
        advice = f"decrypt it (openssl pkey -in {key} -out NEW), and let only the workers' user read it"
        raise errors.ConfigError(f"{_place(each, 'key')}: the key {key} has a passphrase; {advice}") from None
    except ssl.SSLError as error:
        if error.reason in _MISFITS:
            why = f"the key {key} does not belong to the certificate {each.certificate}"
            raise errors.ConfigError(f"{_place(each, 'key')}: {why}") from None
        why = f"OpenSSL does not take {each.certificate} with {key}: {error.reason or error}"
        raise errors.ConfigError(f"{_place(each, 'certificate')}: {why}") from None


class _EncryptedError(Exception):
    """A key has a passphrase."""


def _refuse_password() -> str:
    raise _EncryptedError  # without this, OpenSSL would ask at the terminal


@contextlib.contextmanager
def _in_memory(content: bytes) -> Iterator[str]:
    fd = os.memfd_create("hourd-certificate", os.MFD_CLOEXEC)
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(content)
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


def _end(pem: bytes) -> float:
    """Return until when the first certificate of a file is valid, in seconds since 1970.

    Python's ssl tells that of a peer's certificate only. X.509 (RFC 5280, 4.1): the certificate is a sequence whose
    first part is a sequence of version, number, algorithm, issuer, validity; that one is a sequence of two times.
    """
    der = ssl.PEM_cert_to_DER_cert(_CERTIFICATE.findall(pem)[0].decode("ascii"))
    (_, certificate), *_ = _parts(der)
    (_, signed), *_ = _parts(certificate)
    parts = list(_parts(signed))
    if parts[0][0] == _VERSION_TAG:
        del parts[0]
    tag, text = list(_parts(parts[3][1]))[1]
    form = "%y%m%d%H%M%SZ" if tag == _UTC_TIME else "%Y%m%d%H%M%SZ"
    return dt.datetime.strptime(text.decode("ascii"), form).replace(tzinfo=dt.UTC).timestamp()


def _parts(der: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield tag and content of the values that lie one after the other (X.690, 8.1)."""
    at = 0
    while at < len(der):
        tag, size = der[at], der[at + 1]
        at += 2
        if size & _LONG:
            digits = size & ~_LONG
            size = int.from_bytes(der[at : at + digits], "big")
            at += digits
        yield tag, der[at : at + size]
        at += size
