"""Exit with 0 where a process of offkey on this machine says that it is alive: `healthy.py [PORT]`.

Over TLS where the port speaks it. The certificate is of names that others call this machine by, and is not looked
at: the question says nothing, and who could answer it in place of offkey on loopback has this machine already.
"""

import http.client
import ssl
import sys
from contextlib import closing

_TIMEOUT_S = 3.0


def main() -> str | None:
    """Return what is wrong, if anything is."""
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 9108
    try:
        status, said = ask(http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S))
        if status == http.client.BAD_REQUEST:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            status, said = ask(http.client.HTTPSConnection("127.0.0.1", port, timeout=_TIMEOUT_S, context=context))
    except (OSError, http.client.HTTPException) as error:
        return f"port {port}: {error}"
    return None if status == http.client.OK else said


def ask(connection: http.client.HTTPConnection) -> tuple[int, str]:
    """Return the status and the text of what is said of being alive."""
    with closing(connection):
        connection.request("GET", "/healthz")
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace").strip()


if __name__ == "__main__":
    sys.exit(main())
