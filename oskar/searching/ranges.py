"""The part of a file that an HTTP request asks for (RFC 9110, section 14)."""

import re
from dataclasses import dataclass

_ONE_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


class UnsatisfiableError(ValueError):
    """A range that holds no byte of the file."""


@dataclass(frozen=True, slots=True)
class Part:
    """The bytes ``start`` to ``end`` - 1 of ``n_bytes``."""

    start: int
    end: int
    n_bytes: int

    @property
    def content_range(self) -> str:
        return f"bytes {self.start}-{self.end - 1}/{self.n_bytes}"


def requested_part(header: str | None, n_bytes: int) -> Part | None:
    """The one range of a ``Range`` header; None, the whole file, without one and for what need not be understood.

    Raises:
        UnsatisfiableError: the range lies outside the file.
    """
    matched = None if header is None else _ONE_RANGE.fullmatch(header.strip())
    if matched is None or matched.group(0) == "bytes=-":
        return None
    first, last = matched.groups()
    if first == "":
        start, end = max(n_bytes - int(last), 0), n_bytes
    else:
        start, end = int(first), n_bytes if last == "" else min(int(last) + 1, n_bytes)
        if last != "" and int(last) < int(first):
            return None  # not a range at all, to be ignored
    if start >= end:
        raise UnsatisfiableError(header)
    return Part(start, end, n_bytes)
