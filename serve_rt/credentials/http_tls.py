"""TLS between HTTP clients and a proxy: a certificate and its key, PEM files of the node.

`serve-agent` looks at them before it starts anything; each proxy worker reads them anew, so a renewed certificate is
taken by `serve-agent restart-proxies`. Imported only where HTTPS is asked for: ssl takes a moment to load.
"""

from __future__ import annotations

import ssl
from pathlib import Path

from serve_rt.errors import ConfigError


def https_context(certfile: str, keyfile: str) -> ssl.SSLContext:
    """*Errors*: ConfigError naming the file that is missing, unreadable, or not what it should be."""
    for option, path in (("--http-ssl-certfile", certfile), ("--http-ssl-keyfile", keyfile)):
        try:
            with Path(path).open("rb"):
                pass
        except OSError as error:
            raise ConfigError(f"{option} {path} cannot be read: {error.strerror}") from error
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    _check_certificate(certfile)
    try:
        context.load_cert_chain(certfile, keyfile, _no_password)
    except (ssl.SSLError, _Encrypted) as error:
        raise ConfigError(f"--http-ssl-keyfile {keyfile} {_why(error, certfile)}") from error
    return context


def probe_context() -> ssl.SSLContext:
    """For asking a proxy of this very node whether it is up: nothing secret is sent; its certificate names others."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class _Encrypted(Exception):
    pass


def _no_password() -> str:
    raise _Encrypted  # else OpenSSL would ask the terminal


def _check_certificate(certfile: str) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(certfile)
    except ssl.SSLError as error:
        raise ConfigError(f"--http-ssl-certfile {certfile} holds no certificate in PEM form") from error


def _why(error: Exception, certfile: str) -> str:
    if isinstance(error, _Encrypted):
        return "is encrypted: give a key without a password, in a file that only this user can read"
    if isinstance(error, ssl.SSLError) and error.reason == "KEY_VALUES_MISMATCH":
        return f"does not belong to the certificate in {certfile}"
    return "holds no private key in PEM form"
