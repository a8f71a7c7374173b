"""How a ZIP is written: the bytes around the contents, from names, sizes and CRCs alone.

Notes
-----
APPNOTE.TXT 6.3.10: members are stored (method 0) without data descriptors, names are UTF-8 (flag bit 11), the time
is 1980-01-01, and the ZIP64 fields of section 4.5.3 appear only where a number does not fit the old ones.
"""

import struct

_LIMIT_32 = 0xFFFF_FFFF
_LIMIT_16 = 0xFFFF
_UTF8_NAMES = 1 << 11
_EARLIEST_DATE = 0x21  # 1980-01-01, the first day of DOS
_UNIX_45 = 3 << 8 | 45  # made on Unix, by version 4.5 of the specification
_REGULAR_0644 = 0o100644 << 16
_FOLDER_0755 = 0o040755 << 16 | 0x10

_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR_64 = struct.Struct("<4sLQL")
_END = struct.Struct("<4s4H2LH")


def member_header(name: bytes, size_bytes: int, crc32: int) -> bytes:
    """Return what comes before the content of a member."""
    is_large = size_bytes >= _LIMIT_32
    size = _LIMIT_32 if is_large else size_bytes
    extra = struct.pack("<2H2Q", 1, 16, size_bytes, size_bytes) if is_large else b""
    version = 45 if extra else 20
    fixed = (b"PK\3\4", version, _UTF8_NAMES, 0, 0, _EARLIEST_DATE, crc32, size, size)
    return _LOCAL.pack(*fixed, len(name), len(extra)) + name + extra


def directory_entry(name: bytes, size_bytes: int, crc32: int, offset: int) -> bytes:
    """Return the entry in the directory of a member that begins at `offset`."""
    numbers = [size_bytes, size_bytes] if size_bytes >= _LIMIT_32 else []
    if offset >= _LIMIT_32:
        numbers.append(offset)
    extra = struct.pack(f"<2H{len(numbers)}Q", 1, 8 * len(numbers), *numbers) if numbers else b""
    size = min(size_bytes, _LIMIT_32)
    version = 45 if extra else 20
    fixed = (b"PK\1\2", _UNIX_45, version, _UTF8_NAMES, 0, 0, _EARLIEST_DATE, crc32, size, size)
    mode = _FOLDER_0755 if name.endswith(b"/") else _REGULAR_0644
    rest = (len(name), len(extra), 0, 0, 0, mode, min(offset, _LIMIT_32))
    return _CENTRAL.pack(*fixed, *rest) + name + extra


def end_of_directory(count: int, directory_offset: int, directory_bytes: int) -> bytes:
    """Return what comes behind the directory of `count` members."""
    old = (min(count, _LIMIT_16), min(count, _LIMIT_16), min(directory_bytes, _LIMIT_32))
    end = _END.pack(b"PK\5\6", 0, 0, *old, min(directory_offset, _LIMIT_32), 0)
    if count < _LIMIT_16 and directory_bytes < _LIMIT_32 and directory_offset < _LIMIT_32:
        return end
    at = directory_offset + directory_bytes
    new = (0, 0, count, count, directory_bytes, directory_offset)
    end_64 = _END_64.pack(b"PK\6\6", _END_64.size - 12, _UNIX_45, 45, *new)
    return end_64 + _LOCATOR_64.pack(b"PK\6\7", 0, at, 1) + end
