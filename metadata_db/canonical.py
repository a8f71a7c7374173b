"""Identity of questions and answers: canonical JSON, query ids, checksums of sets of files.

MD5 and BLAKE2 stand here for identity, not for security: an id that somebody forged is caught by the SHA-256 that is
stored beside it. Changing anything in this module changes ids and is a breaking change.
"""

import hashlib
import json
from typing import Any

_MASK = (1 << 64) - 1


def canonical_json(value: Any) -> str:
    """Return the one JSON text of `value`: keys sorted, no white space, Unicode unescaped, no NaN.

    Raises
    ------
    ValueError
        `value` holds NaN or an infinity.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def query_id(canonical: str) -> str:
    """Return the id of a question: 32 hexadecimal digits, the MD5 of its canonical form."""
    return hashlib.md5(canonical.encode(), usedforsecurity=False).hexdigest()


def canonical_sha256(canonical: str) -> bytes:
    """Return the digest that guards a query id against forged twins."""
    return hashlib.sha256(canonical.encode()).digest()


def export_id(query: str, answer_checksum: str) -> str:
    """Return the id of the export of one answer: equal question and equal set of files, equal export."""
    return hashlib.md5(f"{query}:{answer_checksum}".encode(), usedforsecurity=False).hexdigest()


def fingerprint(storage: str, path: str, size_bytes: int, sha256: str | None) -> tuple[int, int]:
    """Return two signed 64-bit numbers that stand for one file in the checksum of a set.

    The storage's name, not its number, goes in: equal catalogues have equal checksums everywhere.
    """
    digest = fingerprint_bytes(storage, path, size_bytes, sha256)
    return int.from_bytes(digest[:8], signed=True), int.from_bytes(digest[8:], signed=True)


def fingerprint_bytes(storage: str, path: str, size_bytes: int, sha256: str | None) -> bytes:
    """Return the two numbers of `fingerprint` as sixteen bytes, the highest first."""
    return hashlib.blake2b(f"{storage}\0{path}\0{size_bytes}\0{sha256 or ''}".encode(), digest_size=16).digest()


def set_checksum(sum_high: int, sum_low: int) -> str:
    """Return the checksum of a set of files from the sums of their fingerprints.

    Sums do not depend on order and can be moved forward: a file that came is added, one that went is subtracted.
    """
    return f"{sum_high & _MASK:016x}{sum_low & _MASK:016x}"
