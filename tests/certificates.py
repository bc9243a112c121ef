"""Certificates for tests, their files, and clients that trust them."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

import trustme

CA = trustme.CA()


def issue(folder: Path, name: str = "site", *names: str, ca: trustme.CA = CA, **more) -> dict[str, str]:
    """Write a certificate and its key, whole or not at all; returns ``{certificate, key}``."""
    made = ca.issue_cert(*(names or ("localhost", "127.0.0.1", "::1")), **more)
    files = {
        "certificate": b"".join(blob.bytes() for blob in made.cert_chain_pems),
        "key": made.private_key_pem.bytes(),
    }
    for kind, content in files.items():
        replace(folder / f"{name}.{kind}.pem", content)
    return {kind: f"{name}.{kind}.pem" for kind in files}


def replace(path: Path, content: bytes) -> None:
    draft = path.with_name(path.name + ".draft")
    draft.write_bytes(content)
    os.chmod(draft, 0o644)
    draft.rename(path)


def client(ca: trustme.CA = CA, *, own: Path | None = None, alpn: tuple[str, ...] = ()) -> ssl.SSLContext:
    """Return what a client has: the authority it trusts, and a certificate of its own if it has one."""
    context = ssl.create_default_context()
    ca.configure_trust(context)
    if own:
        context.load_cert_chain(f"{own}.certificate.pem", f"{own}.key.pem")
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context
