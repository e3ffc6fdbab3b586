"""Ed25519 signatures of bundles: who made this file, beside what is in it.

Keys are PEM files, as `openssl genpkey -algorithm ed25519` makes them; needs the package `cryptography`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from agfnet.prediction.bundle import Bundle
from agfnet.types import BundleError, ConfigError


def signer(path: Path) -> Callable[[bytes], bytes]:
    """What signs with a private key (PEM).

    Raises:
        ConfigError: the key cannot be used.
    """
    return _private(path).sign


def check_signature(bundle: Bundle, public: Path) -> Bundle:
    """The bundle, as verified, if it was signed with the key to which this public key (PEM) belongs.

    Raises:
        BundleError: it was not.
        ConfigError: the key cannot be used.
    """
    key = _public(public)
    if bundle.signature is None:
        raise BundleError("the bundle is not signed. Sign it: agfnet bundle RUN -o model.agf --sign KEY.pem")
    try:
        key.verify(bundle.signature, bundle.manifest)
    except InvalidSignature:
        raise BundleError(
            f"the bundle was not signed with the key of {public}. Ask where the file comes from."
        ) from None
    return replace(bundle, verified=True)


def _private(path: Path) -> Ed25519PrivateKey:
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(_no_key(path, "private")) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(_no_key(path, "private"))
    return key


def _public(path: Path) -> Ed25519PublicKey:
    try:
        key = load_pem_public_key(path.read_bytes())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(_no_key(path, "public")) from error
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigError(_no_key(path, "public"))
    return key


def _no_key(path: Path, kind: str) -> str:
    return (
        f"{path}: is no Ed25519 {kind} key without a password, as PEM. Make a pair: openssl genpkey -algorithm ed25519 "
        "-out key.pem; openssl pkey -in key.pem -pubout -out public.pem"
    )
