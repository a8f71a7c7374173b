"""Lists of a bag's files for programs that download or check: Metalink, curl, aria2, sha256sum, md5sum.

All of them name the whole bag, tag files too, below a folder of the question's id: what is fetched by one of them is
the tree of the archives, byte for byte.

Notes
-----
Names are those of the bag, so most of what needs escaping cannot be in them (see `staging/naming.py`); it is escaped
all the same. Addresses are percent-encoded, which leaves nothing special to any of these formats. aria2 1.36 reads the
escape of an ampersand in a name of a Metalink as five letters; its own list has no escapes.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import quote
from xml.sax.saxutils import escape, quoteattr

from aggregator.exports.bag import Bag, Member

Line = Callable[[str, Member, str], str]
"""Name below the folder of the download, the file, and its address → its lines."""


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """A list of files in one format."""

    media_type: str
    line: Line
    begin: str = ""
    end: str = ""


def iter_view(view: View, bag: Bag, address: str) -> Iterator[bytes]:
    """Yield the text of a view, line by line.

    Parameters
    ----------
    address
        Of the export, absolute: ``https://…/exports/<id>``.
    """
    yield view.begin.encode()
    with bag.reading() as manifest:
        for _, member in bag.iter_from(manifest):
            if member.is_folder:
                continue
            url = f"{address}/bag/{quote(member.name, safe='/')}"
            yield view.line(f"{bag.name}/{member.name}", member, url).encode()
    yield view.end.encode()


def _metalink(name: str, member: Member, url: str) -> str:
    # A priority, because without one aria2 takes the lowest.
    return (
        f"  <file name={quoteattr(name)}>\n    <size>{member.size_bytes}</size>\n"
        f'    <hash type="sha-256">{member.sha256}</hash>\n    <hash type="md5">{member.md5}</hash>\n'
        f'    <url priority="1">{escape(url)}</url>\n  </file>\n'
    )


def _curl(name: str, _member: Member, url: str) -> str:
    return f"url = {_for_curl(url)}\noutput = {_for_curl(name)}\n"


_CURL_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\t": r"\t", "\n": r"\n", "\r": r"\r", "\v": r"\v"})


def _for_curl(text: str) -> str:
    return f'"{text.translate(_CURL_ESCAPES)}"'


def _aria2(name: str, member: Member, url: str) -> str:
    return f"{url}\n  out={name}\n  checksum=sha-256={member.sha256}\n"


def _sha256sum(name: str, member: Member, _url: str) -> str:
    return _for_sums(member.sha256, name)


def _md5sum(name: str, member: Member, _url: str) -> str:
    return _for_sums(member.md5, name)


_SUM_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", "\r": r"\r"})


def _for_sums(digest: str, name: str) -> str:
    """Return a line as GNU coreutils write it: a backslash before it says that the name is escaped."""
    escaped = name.translate(_SUM_ESCAPES)
    return f"{'' if escaped == name else chr(92)}{digest}  {escaped}\n"


VIEWS: Mapping[str, View] = {
    "meta4": View(
        media_type="application/metalink4+xml",
        begin='<?xml version="1.0" encoding="UTF-8"?>\n<metalink xmlns="urn:ietf:params:xml:ns:metalink">\n'
        "  <generator>Catchment</generator>\n",
        line=_metalink,
        end="</metalink>\n",
    ),
    "curl": View(
        media_type="text/plain; charset=utf-8",
        begin="# curl --parallel --config <this file>\ncreate-dirs\nfail\ngloboff\n",
        line=_curl,
    ),
    "aria2": View(media_type="text/plain; charset=utf-8", line=_aria2),
    "sha256": View(media_type="text/plain; charset=utf-8", line=_sha256sum),
    "md5": View(media_type="text/plain; charset=utf-8", line=_md5sum),
}
"""Ending of the address → view."""
