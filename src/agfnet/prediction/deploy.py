"""A bundle as it is handed over: with its model card, and signed."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

from agfnet.prediction.bundle import CARD, DECISION, GRAPH, MANIFEST, Bundle, read_bundle, write_bundle
from agfnet.types import ConfigError


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
    if path.is_file() and not _is_bundle(path):
        raise ConfigError(f"{path}: is there already and is no bundle. Choose another name, such as model.agf.")
    bundle = read_bundle(source)
    parts = dict(bundle.parts)
    if card is not None:
        parts[CARD] = _card(card, bundle).encode()
    write_bundle(path, bundle.facts, parts, sign=_signer(key))
    return read_bundle(path)


def _is_bundle(path: Path) -> bool:
    """Whether a file is one, of whatever format or damage; a spreadsheet is a zip too."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return MANIFEST in archive.namelist()


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


def _signer(key: Path | None) -> Callable[[bytes], bytes] | None:
    if key is None:
        return None
    from agfnet.prediction.signature import signer  # noqa: PLC0415 - an unsigned bundle needs no cryptography

    return signer(key)
