"""Who made a folder: a signature over all its files by the OpenSSF's model-signing, with a plain key and no network.

A key is one of an elliptic curve in PEM:

    openssl ecparam -name prime256v1 -genkey -noout -out key.pem && openssl ec -in key.pem -pubout -out key.pub
"""

import re
from pathlib import Path

from edgemtl.ground.errors import CheckFailed, UsageError, needs

SIGNATURE = "model.sig"  # in the folder; a Sigstore bundle, which `model_signing verify key` reads as well
# How the library puts it, and how we do.
DIFFERENCES = {
    r"Hash mismatch for \\?'([^'\\]*)": "{} was changed",
    r"Missing files in model '.*?': ([^'\"\]]*)": "{} is missing",
    r"Extra files found in model '.*?': ([^'\"\]]*)": "{} was not signed",
}


def sign(folder: Path, key: Path) -> None:
    """Writes the signature of a folder's files, made with a private key. UsageError for no such key."""
    with needs("sign"):
        from model_signing import hashing, signing
    _there(key)
    try:
        config = signing.Config().use_elliptic_key_signer(private_key=key)
    except (ValueError, TypeError) as error:  # TypeError: it is encrypted
        raise UsageError(f"{key} is no plain private key of an elliptic curve in PEM: {_line(error)}") from None
    ignored = hashing.Config().set_ignored_paths(paths=[folder / SIGNATURE], ignore_git_paths=False)
    config.set_hashing_config(ignored).sign(folder, folder / SIGNATURE)


def check_signature(folder: Path, key: Path) -> None:
    """CheckFailed where a folder is not, in every file, what the owner of this public key signed.

    UsageError for no such key.
    """
    with needs("sign"):
        from model_signing import hashing, verifying
    _there(key)
    try:
        config = verifying.Config().use_elliptic_key_verifier(public_key=key)
    except (ValueError, TypeError) as error:
        raise UsageError(f"{key} is no public key of an elliptic curve in PEM: {_line(error)}") from None
    if not (folder / SIGNATURE).is_file():
        raise CheckFailed(f"{folder} is not signed: it has no {SIGNATURE} (`edgemtl deploy --sign KEY` writes one)")
    # What is left out of the signature is said here, not by the signature itself.
    ignored = hashing.Config().set_ignored_paths(paths=[folder / SIGNATURE], ignore_git_paths=False)
    try:
        config.set_hashing_config(ignored).verify(folder, folder / SIGNATURE)
    except Exception as error:  # of cryptography, of what reads the bundle, of the comparison
        reason = _line(error) or f"{SIGNATURE} was made with another key, or changed"
        raise CheckFailed(f"{folder} is not what the owner of {key} signed: {reason}") from None


def require_signatures(key: Path | str | None, *folders: Path) -> None:
    """As `check_signature`, for each of the folders; without a key it checks nothing."""
    for folder in folders if key is not None else ():
        check_signature(folder, Path(str(key)))


def _there(key: Path) -> None:
    if not key.is_file():
        raise UsageError(f"{key} does not exist; a key is a file in PEM")


def _line(error: Exception) -> str:
    """What the library says, in our words where it lists files with their digests."""
    text = " ".join(str(error).split())
    for pattern, words in DIFFERENCES.items():
        if found := re.search(pattern, text):
            return words.format(found[1])
    return text
