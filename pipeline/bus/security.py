"""Credentials for a broker, and TLS, by which a client knows that it talks to the right one."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from pipeline.errors import ConfigurationError
from pipeline.secret import Secret

if TYPE_CHECKING:
    import ssl

SaslMechanism = Literal["SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN"]


class BusSecurity(msgspec.Struct, frozen=True, kw_only=True):
    """Credentials and TLS of a connection, for both brokers. The default is neither.

    `user` and `password` are for NATS, and for Kafka's SASL with the mechanism `sasl`. `credentials` is a NATS .creds
    file. With `tls` the broker's certificate is checked against `ca_file`, or against the system's authorities if that
    is None, and the client presents `cert_file` with `key_file` (PEM; without `key_file` the key is in `cert_file`).
    """

    user: str | None = None
    password: Secret | None = None
    credentials: Path | None = None
    tls: bool = False
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    sasl: SaslMechanism = "SCRAM-SHA-512"

    def tls_context(self) -> "ssl.SSLContext | None":
        """Return the context of TLS connections, None without `tls`. Raises ConfigurationError naming a bad file."""
        if not self.tls:
            return None
        import ssl

        try:
            context = ssl.create_default_context(cafile=self.ca_file)
        except OSError as error:
            raise ConfigurationError(f"the CA file {self.ca_file} cannot be used: {_reason(error)}") from error
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.cert_file is not None:
            try:
                context.load_cert_chain(self.cert_file, self.key_file, password=_no_passphrase)
            except (OSError, ValueError) as error:
                files = " with ".join(str(path) for path in (self.cert_file, self.key_file) if path is not None)
                raise ConfigurationError(f"the certificate {files} cannot be used: {_reason(error)}") from error
        return context


def _no_passphrase() -> str:
    """Refuse to give a passphrase. Without this callback OpenSSL asks on the terminal."""
    raise ValueError("the key is encrypted; store it without a passphrase, readable by this user alone")


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
