"""Bodies that an engine compresses though it is asked not to: gzip and deflate are read, anything else is refused.

Nothing is raised: a decoder's `problem` says what was wrong, and from then on nothing more is read.
"""

from __future__ import annotations

import zlib

_PLAIN = frozenset({"", "identity"})
_READ = {"gzip": zlib.MAX_WBITS | 32, "x-gzip": zlib.MAX_WBITS | 32, "deflate": zlib.MAX_WBITS}


class Decoder:
    """Reads one body piece by piece. `most_bytes` is what it may hold once it is read."""

    def __init__(self, encoding: str, most_bytes: int) -> None:
        self.problem: str | None = None
        self._encoding = encoding
        self._left = self._most = most_bytes
        if encoding in _READ:
            self._zlib = zlib.decompressobj(_READ[encoding])
        else:
            self.problem = f"an answer in the content-encoding {encoding[:40]!r}, which it was not asked for"

    def read(self, data: bytes) -> bytes:
        """The next piece as it was before."""
        if self.problem is not None:
            return b""
        try:
            plain = self._zlib.decompress(data, self._left + 1)
        except zlib.error:
            self.problem = f"something else than the {self._encoding} that it announced"
            return b""
        self._left -= len(plain)
        if self._left < 0:
            self.problem = f"more than {self._most} bytes, compressed"
        return plain


def decoder_of(header: bytes, most_bytes: int) -> Decoder | None:
    """What reads a body with this content-encoding; None where it is plain."""
    encoding = header.decode("latin-1").strip().lower()
    return None if encoding in _PLAIN else Decoder(encoding, most_bytes)
