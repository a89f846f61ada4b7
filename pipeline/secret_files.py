"""Secrets as the settings name them: from the environment, or the content of a file."""

from pathlib import Path

from pydantic import SecretStr

from pipeline.errors import ConfigError

_MOST_BYTES = 64 * 1024


def read_secret(given: SecretStr | str | None, file: str | None, key: str) -> str | None:
    """Return a secret without the newline at its end; None: neither is there. `key` is the one that names the file.

    Raises:
        ConfigError: the file is not there, cannot be read, or holds no line of printable text.
    """
    if given is not None:
        text = given.get_secret_value() if isinstance(given, SecretStr) else given
    elif file is None:
        return None
    else:
        try:
            with Path(file).open("rb") as opened:
                content = opened.read(_MOST_BYTES)
            text = content.decode().rstrip("\r\n")
        except OSError as error:
            raise ConfigError(
                f"{key}: {file} cannot be read ({error.strerror}); name a file that this user may read"
            ) from error
        except UnicodeDecodeError as error:
            raise ConfigError(
                f"{key}: {file} is not UTF-8 text; write the secret into it, and nothing else"
            ) from error
    if not text or not text.isascii() or not text.isprintable():
        where = file or "the environment"
        raise ConfigError(f"{key}: {where} holds no line of plain text; write the secret into it, and nothing else")
    return text
