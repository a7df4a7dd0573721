"""A certificate authority of a test's own, and what it issues, as files."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import trustme
from cryptography.hazmat.primitives import serialization


@dataclass(frozen=True)
class ServerCertificate:
    """A server's certificate chain and its key, in PEM."""

    chain: bytes
    key: bytes


class Authority:
    """An authority that nobody trusts unless told to."""

    def __init__(self) -> None:
        self._ca = trustme.CA()

    def write_to(self, folder: Path) -> Path:
        """The authority's own certificate as a file: what a client is told to trust."""
        path = folder / f"authority-{id(self):x}.pem"
        self._ca.cert_pem.write_to_path(str(path))
        return path

    def issue(self, *names: str) -> ServerCertificate:
        """A certificate for a server that is called ``names``."""
        issued = self._ca.issue_cert(*names)
        chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
        key = serialization.load_pem_private_key(issued.private_key_pem.bytes(), None)
        # Java reads no other form of a key in PEM.
        pkcs8 = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return ServerCertificate(chain, pkcs8)


def private_file(path: Path, content: bytes, give_to: Callable[[Path], None] = lambda _: None) -> Path:
    """A file that only its owner may read."""
    path.touch(0o600)
    path.write_bytes(content)
    give_to(path)
    return path
