"""Exit with 0 where a process of offkey on this machine says that it is alive: `healthy.py [PORT]`."""

import sys
import urllib.error
import urllib.request


def main() -> str | None:
    """Return what is wrong, if anything is."""
    port = sys.argv[1] if len(sys.argv) > 1 else "9108"
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=3):
            return None
    except urllib.error.HTTPError as error:
        return error.read().decode(errors="replace").strip()
    except OSError as error:
        return f"port {port}: {error}"


if __name__ == "__main__":
    sys.exit(main())
