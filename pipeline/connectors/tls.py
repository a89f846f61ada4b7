"""Whose certificates are trusted on a connection, and our own one."""

import ssl
from pathlib import Path

from pipeline.errors import ConfigError


def trusting(ca_file: str | None, key: str) -> ssl.SSLContext:
    """Return what requires trusted certificates, in date, of the hosts asked for; by default the system's CAs.

    `key`: the one that names the file.

    Raises:
        ConfigError: the file cannot be read, or holds no certificate.
    """
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise _untrusting(key, ca_file, error) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def serving(
    keys: str, certificate_file: str, key_file: str | None, password: str | None, ca_file: str | None
) -> ssl.SSLContext:
    """Return what a server of ours is spoken to by; `ca_file`: who signed the certificates of clients.

    A client need not show one, and one that is shown has to be trusted. The other arguments are those of `present`.

    Raises:
        ConfigError: as `present`, and of `ca_file` as `trusting`.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    present(context, keys, certificate_file, key_file, password)
    if ca_file is not None:
        try:
            context.load_verify_locations(ca_file)
        except OSError as error:
            raise _untrusting(f"{keys}.ca_file", ca_file, error) from error
        context.verify_mode = ssl.CERT_OPTIONAL
    return context


def present(
    context: ssl.SSLContext, keys: str, certificate_file: str, key_file: str | None, password: str | None
) -> None:
    """Have a certificate of our own shown to whom asks for it. `keys`: the section that names the files.

    Raises:
        ConfigError: a file cannot be read, is none in PEM, the two do not belong together, or the password is not
            that of the key.
    """
    for key, file in (("certificate_file", certificate_file), ("key_file", key_file)):
        if file is not None:
            try:
                Path(file).open("rb").close()
            except OSError as error:
                raise unreadable(f"{keys}.{key}", file, error) from error
    where = f"{keys}.{'certificate_file' if key_file is None else 'key_file'}: {key_file or certificate_file}"

    def asked() -> str:
        # Without this, OpenSSL would ask on the terminal.
        if password is None:
            raise ConfigError(f"{where} is encrypted; name a file with its password as {keys}.key_password_file")
        return password

    try:
        context.load_cert_chain(certificate_file, key_file, asked)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ConfigError(f"{where} is not the key of {certificate_file}; name the one that is") from error
        raise ConfigError(
            f"{where}: no certificate with its key can be read from there ({error.reason or 'not PEM'}); name "
            f"files in PEM, and the password of an encrypted key as {keys}.key_password_file"
        ) from error
    except OSError as error:
        # Also of one that has gone since it was looked at, as while it is renewed.
        raise unreadable(f"{keys}.certificate_file", certificate_file, error) from error
    except ValueError as error:
        raise ConfigError(f"{keys}.key_password_file: {error}; give the password of {where}") from error


def _untrusting(key: str, ca_file: str | None, error: OSError) -> ConfigError:
    if isinstance(error, ssl.SSLError):
        return ConfigError(f"{key}: {ca_file} holds no certificate; name a file in PEM")
    return unreadable(key, ca_file, error)


def unreadable(key: str, file: str | None, error: OSError) -> ConfigError:
    """Return what says that a file which a key names cannot be read."""
    return ConfigError(f"{key}: {file} cannot be read ({error.strerror}); name a file that this user may read")
