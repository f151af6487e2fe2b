"""https for a local network: a certificate that this machine signs for itself, and one that is given."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import re
import socket
import ssl
from collections.abc import Iterable
from pathlib import Path

from edge_demo.errors import UserError
from edge_demo.files import atomic_file, decoding

VALID = datetime.timedelta(days=365)
RENEWED = datetime.timedelta(days=30)  # before its end
EARLIER = datetime.timedelta(days=1)  # that it is valid from: a phone's clock may be behind
# Addresses for documentation: nothing is sent to them, but they tell by which address one would.
ELSEWHERE = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))
DNS_NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")


def context(certificate: Path, key: Path) -> ssl.SSLContext:
    """TLS 1.2 and newer with this certificate; UserError where the files do not make one."""
    for path in (certificate, key):  # OpenSSL does not say which it cannot open
        with decoding(path):
            path.open("rb").close()
    found = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    found.set_alpn_protocols(["http/1.1"])
    try:  # the empty password: else OpenSSL would ask for one in the terminal
        found.load_cert_chain(certificate, key, password="")
    except (ssl.SSLError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise UserError(
            f"{certificate}: no certificate in PEM with {key} as its key, without a password ({reason})"
        ) from None
    return found


def self_signed(folder: Path, names: Iterable[str]) -> tuple[Path, Path]:
    """Files of a certificate for `names` (of hosts, or addresses) and of its key, which are in `folder`.

    They are made where they are missing. The certificate is made anew when it lacks a name or is near its
    end; the key stays the same, readable by its owner alone.
    Raises UserError without the package `cryptography`, or where the files cannot be written.
    """
    try:
        from cryptography import x509
    except ModuleNotFoundError:
        raise UserError("--https needs cryptography: pip install 'tfvit[web]'") from None
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    wanted = {_general_name(name) for name in names}
    with contextlib.suppress(OSError, ValueError, UserError, x509.ExtensionNotFound):
        found = x509.load_pem_x509_certificate(certificate.read_bytes())
        names_inside = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        lasts = found.not_valid_after_utc - datetime.datetime.now(datetime.timezone.utc)
        if wanted <= set(names_inside) and lasts > RENEWED:
            context(certificate, key)  # they fit each other
            return certificate, key
    _write(certificate, _signed(_key(key), wanted))
    return certificate, key


def own_names() -> list[str]:
    """What this machine may be called on its network: names and addresses, loopback among them."""
    host = socket.gethostname().lower().partition(".")[0]
    names = [host, f"{host}.local"] if DNS_NAME.fullmatch(host) else []
    return ["localhost", *names, "127.0.0.1", "::1", *lan_addresses()]


def lan_addresses() -> list[str]:
    """By which addresses other machines reach this one; none without a network."""
    found = []
    for family, address in ELSEWHERE:
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((address, 9))
            found.append(probe.getsockname()[0])
    return [address for address in found if not ipaddress.ip_address(address).is_loopback]


def _general_name(name: str):
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _key(path: Path):
    """The private key of a file, which is made where there is none that can be read."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    with contextlib.suppress(OSError, ValueError, TypeError):
        return serialization.load_pem_private_key(path.read_bytes(), None)
    made = ec.generate_private_key(ec.SECP256R1())
    plain = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8)
    _write(path, made.private_bytes(*plain, serialization.NoEncryption()))
    return made


def _signed(key, names) -> bytes:
    """A certificate of a server, in PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization

    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "edge-demo")])
    now = datetime.datetime.now(datetime.timezone.utc)
    identity = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - EARLIER)
        .not_valid_after(now + VALID)
        .add_extension(x509.SubjectAlternativeName(sorted(names, key=str)), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.SERVER_AUTH]), critical=False
        )
        .add_extension(identity, critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identity), critical=False
        )
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _write(path: Path, data: bytes) -> None:
    """A file of its owner's alone, from its first byte on."""
    with atomic_file(path) as temporary:
        temporary.unlink(missing_ok=True)
        temporary.touch(0o600, exist_ok=False)
        temporary.write_bytes(data)
