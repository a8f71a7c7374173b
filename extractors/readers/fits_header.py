"""Headers of FITS files: plain ones are read here, at a fraction of the cost, and all others by astropy.

A header is plain when each of its cards stands as the standard wants it (FITS standard 4.0, section 4.1). Then a
keyword is found where its bytes are, and a value of the fixed formats is read as astropy reads it. Whatever is odd,
in the header or in the value that is asked for, is astropy's to judge, which is imported only then.
"""

import re
import warnings
from collections.abc import Mapping
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from extractors.errors import ContentError, shorten
from extractors.readers.reader import Plain

if TYPE_CHECKING:
    from astropy.io.fits import Header

CARD_BYTES = 80
"""FITS standard 4.0, section 4.1: every card has this length."""

MAX_PLAIN_CARDS = 2304
"""Longer headers are astropy's in any case: where their keywords stand would fill the memory of what was met before."""

MAX_VALUE_CHARACTERS = 65_536
"""Longest text of a header that is a value: with CONTINUE it could be as long as the file."""

COMMENTARY = frozenset({"COMMENT", "HISTORY"})
"""Keywords whose cards are lines of text; asked for, all of them are the value."""

_KEYWORD_BYTES = 8
_PREFIX_BYTES = 10
"""Of each card: the keyword, and the sign that a value follows."""

_KEYWORD = re.compile(rb"(?!COMMENT |HISTORY |CONTINUE|HIERARCH|END )[A-Z0-9_-]+ *")
_COMMENTARY_KEYWORDS = (b"COMMENT ", b"HISTORY ", b" " * _KEYWORD_BYTES)
_STANDS_TWICE = -1

# A pair of quotes before a blank or a slash could also be an end of the text, and `: ` a record in a text.
_VALUE = re.compile(
    rb" *(?:'(?P<text>(?:[ -&(-9;-~]|:(?! )|''(?![ /]))*)'"
    rb"|(?P<truth>[TF])"
    rb"|(?P<integer>[+-]?[0-9]+)"
    rb"|(?P<real>[+-]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[DEde]))(?:[DEde][+-]?[0-9]+)?)"
    rb") *(?:/[ -~]*)?"
)


class FitsHeader:
    """The cards of one header, without ``END``."""

    def __init__(self, cards: bytes) -> None:
        self._cards = cards
        self._layout = _find_layout(cards)

    def get(self, keyword: str) -> Plain | None:
        """Return the value of `keyword` (upper case); None when it is not there or states no value.

        Of a keyword that stands several times the first counts.

        Raises
        ------
        ContentError
            The card cannot be read, or its value is none that a catalogue can hold.
        """
        if self._layout is None or keyword in COMMENTARY:
            return self._ask_astropy(keyword)
        at = self._layout.get(keyword)
        if at is None:
            return None
        value = None if at == _STANDS_TWICE else _read_plain(self._cards[at + _PREFIX_BYTES : at + CARD_BYTES])
        return self._ask_astropy(keyword) if value is None else value

    def get_text(self, keyword: str) -> str:
        """Return the text of `keyword` without blanks around it; empty when it is not there."""
        value = self.get(keyword)
        return "" if value is None else str(value).strip()

    def get_whole(self, keyword: str, default: int | None = None) -> int:
        """Return a whole number.

        Raises
        ------
        ContentError
            The value of `keyword` is no whole number, or missing without a `default`.
        """
        value = self.get(keyword)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int):
            raise ContentError(f"a header has {keyword} = {shorten(value)}, expected a whole number")
        return value

    def _ask_astropy(self, keyword: str) -> Plain | None:
        try:
            # astropy warns of odd cards each time it meets them; what it makes of them is the value.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                value = self._by_astropy.get(keyword)
                if value is not None and keyword in COMMENTARY:
                    value = str(value)
        except MemoryError:
            raise
        except Exception as error:
            # A damaged card makes astropy stumble in many ways.
            raise ContentError(f"the card {keyword} cannot be read: {error}") from error
        return _check(value, keyword)

    @cached_property
    def _by_astropy(self) -> "Header":
        from astropy.io.fits import Header

        return Header.fromstring(self._cards)


def _find_layout(cards: bytes) -> Mapping[str, int] | None:
    """Return where each keyword of a plain header stands, or None when it is not plain."""
    if len(cards) > MAX_PLAIN_CARDS * CARD_BYTES:
        return None
    # Files of one kind share their keywords, in one order: so this is mostly known from the file before.
    return _parse_layout(b"".join([cards[column::CARD_BYTES] for column in range(_PREFIX_BYTES)]))


@lru_cache(maxsize=64)
def _parse_layout(prefixes: bytes) -> Mapping[str, int] | None:
    """Return keyword → offset of its card, from the first ten columns of all cards, column by column."""
    n_cards = len(prefixes) // _PREFIX_BYTES
    layout: dict[str, int] = {}
    for number in range(n_cards):
        prefix = prefixes[number::n_cards]
        keyword, sign = prefix[:_KEYWORD_BYTES], prefix[_KEYWORD_BYTES:]
        if keyword in _COMMENTARY_KEYWORDS:
            continue
        if sign != b"= " or _KEYWORD.fullmatch(keyword) is None:
            return None
        name = keyword.decode("ascii").rstrip()
        layout[name] = _STANDS_TWICE if name in layout else number * CARD_BYTES
    return layout


@lru_cache(maxsize=4096)
def _read_plain(written: bytes) -> Plain | None:
    """Return the value in a card behind its keyword, or None when it is not plain; most are as in the file before."""
    found = _VALUE.fullmatch(written)
    if found is None or found.lastgroup is None:
        return None
    written = found[found.lastgroup]
    match found.lastgroup:
        case "text":
            return written.decode("ascii").replace("''", "'").rstrip()
        case "truth":
            return written == b"T"
        case "integer":
            return int(written)
        case _:
            return float(written.upper().replace(b"D", b"E"))


def _check(value: Any, keyword: str) -> Plain | None:
    if isinstance(value, str):
        if len(value) > MAX_VALUE_CHARACTERS:
            raise ContentError(f"the value of {keyword} has more than {MAX_VALUE_CHARACTERS} characters")
        return _decode(value)
    if value is None or isinstance(value, Plain):
        return value
    raise ContentError(f"the value of {keyword} is a {type(value).__name__}, expected text, a number, or T or F")


def _decode(text: str) -> str:
    """Return text that is no ASCII, and so against the standard, as UTF-8, or as Latin-1 if it is none."""
    if text.isascii():
        return text
    try:
        return text.encode("latin-1").decode()
    except UnicodeError:
        return text
