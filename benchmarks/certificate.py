"""A certificate for this machine, made for one run, for the cases with TLS."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

FOLDER = "BENCHMARK_CERTIFICATE"
"""The environment variable that says where the certificate is."""


def make(folder: Path) -> None:
    """Make an authority, a certificate and a key in *folder*; ImportError without trustme."""
    import trustme

    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "authority.pem"))
    issued = authority.issue_cert("localhost", "127.0.0.1")
    issued.private_key_pem.write_to_path(str(folder / "key.pem"))
    issued.cert_chain_pems[0].write_to_path(str(folder / "certificate.pem"))


def path(name: str) -> str:
    return str(Path(os.environ[FOLDER]) / f"{name}.pem")


def client() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=path("authority"))


def server() -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(path("certificate"), path("key"))
    return context
