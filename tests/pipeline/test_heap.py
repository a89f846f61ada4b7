"""What is freed in large pieces goes back to the system."""

import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, sys
from pipeline.heap import give_back_large_pieces

class Found(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena free1 free2 pieces in_pieces a b used free top".split()]

libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Found
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
if sys.argv[1] == "set":
    give_back_large_pieces()
# With the first one that is freed glibc takes equal ones for small.
libc.free(libc.malloc(4 << 20))
before = libc.mallinfo2().in_pieces
libc.malloc(4 << 20)
print(libc.mallinfo2().in_pieces - before >= 4 << 20)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's")
@pytest.mark.parametrize(("asked", "given_back"), [("not", False), ("set", True)])
def test_a_large_piece_stands_by_itself(asked: str, given_back: bool) -> None:
    found = subprocess.run([sys.executable, "-c", PROGRAM, asked], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == str(given_back)
