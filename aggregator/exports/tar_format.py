"""How a TAR is written: the bytes around the contents, from names and sizes alone.

Notes
-----
POSIX.1-2017, pax Interchange Format: plain ustar headers, and an extended header before one only where the name is
long or not ASCII, or the size is 8 GiB or more. Time, owner and mode are the same for all: 1980-01-01, as in the ZIP,
nobody's, and 0644. A name with a slash at its end is a folder.
"""

import struct

BLOCK = 512
END = bytes(2 * BLOCK)

_MTIME_S = 315_532_800  # 1980-01-01T00:00:00Z
_MAX_NAME = 100
_MAX_PREFIX = 155
_LIMIT_SIZE = 8**11
_HEADER = struct.Struct("100s8s8s8s12s12s8sc100s6s2s32s32s8s8s155s12x")
_CHECKSUM_AT = 148
_FILE, _FOLDER, _EXTENDED = b"0", b"5", b"x"


def member_header(name: bytes, size_bytes: int) -> bytes:
    """Return what comes before the content of a member."""
    records = []
    split = _split(name)
    if split is None:
        records.append(_record(b"path", name))
        split = b"", _shortened(name)
    if size_bytes >= _LIMIT_SIZE:
        records.append(_record(b"size", str(size_bytes).encode()))
    kind = _FOLDER if name.endswith(b"/") else _FILE
    header = _ustar(*split, 0 if size_bytes >= _LIMIT_SIZE else size_bytes, kind)
    if not records:
        return header
    extended = b"".join(records)
    # The name that Python and libarchive write too; readers that know pax never show it.
    return _ustar(b"", b"././@PaxHeader", len(extended), _EXTENDED) + extended + padding(len(extended)) + header


def padding(size_bytes: int) -> bytes:
    """Return what fills up the last block of a content."""
    return bytes(-size_bytes % BLOCK)


def _split(name: bytes) -> tuple[bytes, bytes] | None:
    """Return a name as prefix and name of an ustar header; None if it does not fit."""
    if not name.isascii():
        return None
    if len(name) <= _MAX_NAME:
        return b"", name
    at = name.find(b"/", len(name) - _MAX_NAME - 1)
    return (name[:at], name[at + 1 :]) if 0 < at <= _MAX_PREFIX and at + 1 < len(name) else None


def _shortened(name: bytes) -> bytes:
    """Return a name for readers that do not know pax."""
    return name.decode().encode("ascii", "replace").replace(b"?", b"_")[:_MAX_NAME].rstrip(b"/")


def _record(key: bytes, value: bytes) -> bytes:
    """Return one record of an extended header; its length counts its own digits."""
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest)
    while length != len(rest) + len(str(length)):
        length = len(rest) + len(str(length))
    return str(length).encode() + rest


def _ustar(prefix: bytes, name: bytes, size_bytes: int, kind: bytes) -> bytes:
    mode = 0o755 if kind == _FOLDER else 0o644
    fixed = (b"%07o" % mode, b"%07o" % 0, b"%07o" % 0, b"%011o" % size_bytes, b"%011o" % _MTIME_S, b" " * 8, kind)
    header = _HEADER.pack(name, *fixed, b"", b"ustar\0", b"00", b"", b"", b"%07o" % 0, b"%07o" % 0, prefix)
    return header[:_CHECKSUM_AT] + b"%06o\0 " % sum(header) + header[_CHECKSUM_AT + 8 :]
