"""Small files of JSON that hold their own hash, so no byte of them changes unseen.

`{"sha256":HASH,"NAME":SAID}`: the hash is that of SAID as it is spelled there.
"""

import hashlib

import msgspec


class SealError(ValueError):
    """A sealed file that is damaged; to be said after its name."""


def sealed(name: str, said: bytes) -> bytes:
    """Return the content of a file that says this, which is JSON, under a name."""
    digest = hashlib.sha256(said).hexdigest()
    return f'{{"sha256":"{digest}","{name}":'.encode() + said + b"}"


def unsealed(name: str, content: bytes) -> bytes:
    """Return what a file says.

    Raises:
        SealError: it is not as it was written.
    """
    try:
        said = bytes(msgspec.json.decode(content, type=dict[str, msgspec.Raw])[name])
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError) as error:
        raise SealError(f"is damaged ({error})") from error
    if content != sealed(name, said):
        raise SealError("is damaged, its sha256 differs")
    return said
