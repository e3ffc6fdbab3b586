"""Ed25519 signatures of bundles: who made this file, beside what is in it.

Keys are PEM files, as `openssl genpkey -algorithm ed25519` makes them; needs the package `cryptography`.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from agfnet.prediction.bundle import CARD, DECISION, GRAPH, Bundle, read_bundle, write_bundle
from agfnet.types import BundleError, ConfigError


def deploy(source: Path, path: Path, *, card: Path | None = None, key: Path | None = None) -> Bundle:
    """Write a bundle as it is to be handed over: with its model card, and signed.

    Args:
        source: a run folder or a bundle.
        path: the file to write.
        card: the model card, Markdown; None keeps the one that is there.
        key: Ed25519 private key, PEM; None leaves the bundle unsigned.

    Raises:
        BundleError: the source cannot be used.
        ConfigError: the key cannot, the card is no text or not of this network and calibration, or `path` is a file of
            another kind.
    """
    if path.is_file() and not zipfile.is_zipfile(path):
        raise ConfigError(f"{path}: is there already and is no bundle. Choose another name, such as model.agf.")
    bundle = read_bundle(source)
    parts = dict(bundle.parts)
    if card is not None:
        parts[CARD] = _card(card, bundle).encode()
    write_bundle(path, bundle.facts, parts, sign=None if key is None else _private(key).sign)
    return read_bundle(path)


def _card(path: Path, bundle: Bundle) -> str:
    """A model card, which must name what its figures were measured on: a card of another network misleads."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is no text. Name a model card, Markdown.") from error
    for part, what in ((GRAPH, "network"), (DECISION, "calibration")):
        known = bundle.facts["sha256"].get(part)
        if known is not None and known not in text:
            raise ConfigError(
                f"{path}: is not the card of this {what}: it does not hold the SHA-256 of its {part}, {known}. Make "
                "the card with `agfnet report` after the last calibration, or write that line into a card of your own."
            )
    return text


def check_signature(bundle: Bundle, public: Path) -> None:
    """Pass if the bundle was signed with the key to which this public key (PEM) belongs.

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
