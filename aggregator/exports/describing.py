"""What a bag says about itself, in texts: for people, for librarians' programs, for lists of references.

Everything here is a pure function of a manifest: equal manifests, equal bytes.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import quote

import orjson

from aggregator.staging.manifest import Entry, Header, Source
from aggregator.staging.naming import safe_path

DATA_FOLDER = "data"
LICENCES_FOLDER = "LICENCES"

MAX_DESCRIBED = 10_000
"""Files that RO-Crate metadata describe one by one: readers of JSON-LD hold all of it in memory. Of larger sets the
folders are described, and the manifests name the files."""

_CRATE = "https://w3id.org/ro/crate/1.1"
_PUBLISHER = "#catchment"
_SPDX = re.compile(r"(CC0|CC-BY(-NC)?(-SA|-ND)?|MIT|BSD|Apache|GPL|LGPL|AGPL|ODbL|ODC-By|PDDL)(-[0-9][A-Za-z0-9.-]*)?")


@dataclass(kw_only=True, slots=True)
class Contents:
    """What is in a bag, counted while its manifest is read once."""

    header: Header
    licences: dict[str, Counter[str | None]] = field(default_factory=dict)
    """Facility → licence → how many of its files are there under it."""
    folders: dict[str, list[int]] = field(default_factory=dict)
    """Folder below ``data/`` → number and bytes of its files."""
    described: list[Entry] | None = field(default_factory=list)
    """All files, None when they are more than `MAX_DESCRIBED`."""
    renamed: int = 0

    def add(self, entry: Entry) -> None:
        """Count one file."""
        self.licences.setdefault(entry.facility, Counter())[entry.licence] += 1
        folder = self.folders.setdefault(entry.member.partition("/")[0], [0, 0])
        folder[0] += 1
        folder[1] += entry.size_bytes
        self.renamed += entry.name is not None
        if self.described is not None:
            self.described.append(entry)
            if len(self.described) > MAX_DESCRIBED:
                self.described = None

    @property
    def sources(self) -> list[Source]:
        """The facilities that files are from."""
        known = {source.name: source for source in self.header.sources}
        return [known.get(name) or Source(name=name, title=name) for name in sorted(self.licences)]

    @property
    def title(self) -> str:
        """The question in words."""
        cited = self.header.citation
        return f"Answer to the question {self.header.query_id}" if cited is None else cited.title

    @property
    def at(self) -> datetime | None:
        """When the revision was made that the question was answered from."""
        return None if self.header.citation is None else self.header.citation.at


def licence_path(facility: str) -> str:
    """Return where in the bag the terms of a facility are."""
    return f"{LICENCES_FOLDER}/{safe_path(facility)}.txt"


# --- for people -------------------------------------------------------------------------------------------------------


def describe_bag(contents: Contents) -> str:
    """Return README.txt."""
    header = contents.header
    there = _spell_size(header.files_count, header.files_bytes)
    parts = [
        contents.title,
        f"These are the files that answer a question which was asked of Catchment: {there}.",
        _spell_missing(header.missing_count),
        "\n".join(_spell_source(contents, source) for source in contents.sources),
        "What is where:",
        _spell_places(contents),
        "To check that everything is whole, with what most systems have:\n\n    sha256sum --check manifest-sha256.txt",
        "or with any program that knows BagIt (RFC 8493).",
    ]
    if header.citation is not None:
        parts.append(f"Please cite it as:\n\n    {header.citation.text}")
        parts.append("and the facilities as they ask for it themselves; see LICENCES.")
    return "\n\n".join(part for part in parts if part) + "\n"


def _spell_size(count: int, size_bytes: int) -> str:
    return f"{count:,} {'file' if count == 1 else 'files'}, {size_bytes:,} bytes"


def _spell_missing(count: int) -> str:
    if not count:
        return "None is missing."
    which = "1 file belongs" if count == 1 else f"{count:,} files belong"
    return f"{which} to the answer but could not be had: MISSING.csv says why."


def _spell_source(contents: Contents, source: Source) -> str:
    count = contents.licences[source.name].total()
    return f"- {source.title}: {count:,} {'file' if count == 1 else 'files'}; terms in {licence_path(source.name)}"


def _spell_places(contents: Contents) -> str:
    places = {
        f"{DATA_FOLDER}/": "the files, by storage and their path in it, unchanged",
        "manifest.json": "every file: size, checksums, facility, storage, licence; what is missing",
        "manifest-sha256.txt": "checksums of the files, as BagIt and sha256sum write them",
        "query.json, query.graphql": "the question, for programs",
        "ro-crate-metadata.json": "what all this is, as RO-Crate",
        "CITATION.cff, CITATION.bib": "how to cite it",
        f"{LICENCES_FOLDER}/": "terms of each facility",
        "MISSING.csv": "files that could not be had, with the reason",
        "RENAMED.csv": "files whose names some system could not have held, with their paths",
    }
    absent = {
        "CITATION.cff, CITATION.bib": contents.header.citation is None,
        f"{LICENCES_FOLDER}/": not contents.licences,
        "MISSING.csv": not contents.header.missing_count,
        "RENAMED.csv": not contents.renamed,
    }
    return "\n".join(f"    {name:<28}{what}" for name, what in places.items() if not absent.get(name))


def describe_terms(contents: Contents, source: Source) -> str:
    """Return the text of a facility's licence and terms."""
    lines = [source.title, ""]
    facts = {"Address": source.url, "Data authority": source.authority, "Contact": source.contact}
    lines += [f"{name}: {value}" for name, value in facts.items() if value]
    if source.licence:
        lines.append(f"Licence of the data authority: {_spell_licence(source.licence)}")
    for licence, count in sorted(contents.licences[source.name].items(), key=lambda item: item[0] or ""):
        which = "1 file" if count == 1 else f"{count:,} files"
        lines.append(f"Licence of {which}: {_spell_licence(licence)}")
    lines += ["", "Terms of use:", "", source.terms or "The catalogue knows none: ask the facility."]
    return "\n".join(lines) + "\n"


def _spell_licence(name: str | None) -> str:
    if name is None:
        return "not stated"
    return f"{name} ({_spdx_url(name)})" if _SPDX.fullmatch(name) else name


def _spdx_url(name: str) -> str:
    return f"https://spdx.org/licenses/{name}"


# --- for programs -----------------------------------------------------------------------------------------------------


def bag_info(contents: Contents) -> str:
    """Return bag-info.txt (RFC 8493, section 2.2.2)."""
    header = contents.header
    fields = {
        "Source-Organization": [_one_line(source.title) for source in contents.sources],
        "External-Description": [_one_line(contents.title)],
        "External-Identifier": [header.query_id if header.citation is None else header.citation.url],
        "Bagging-Date": [] if contents.at is None else [f"{contents.at:%Y-%m-%d}"],
        "Payload-Oxum": [f"{header.files_bytes}.{header.files_count}"],
        "Bag-Software-Agent": ["Catchment"],
    }
    return "".join(f"{name}: {value}\n" for name, values in fields.items() for value in values)


def crate(contents: Contents, texts: Sequence[str]) -> bytes:
    """Return ro-crate-metadata.json; `texts` are the other files of the bag that it tells of."""
    sources = contents.sources
    licences = [_iri(licence_path(source.name)) for source in sources]
    parts = [
        *(_describe_text(text, contents) for text in texts),
        *(_describe_folders(contents) if contents.described is None else _describe_files(contents, licences)),
    ]
    graph: list[Mapping[str, Any]] = [
        {
            "@id": "ro-crate-metadata.json",
            "@type": "CreativeWork",
            "conformsTo": {"@id": _CRATE},
            "about": {"@id": "./"},
        },
        _root(contents, [part["@id"] for part in parts], licences),
        {"@id": _PUBLISHER, "@type": "Organization", "name": "Catchment"},
        *(_organization(source) for source in sources),
        *parts,
    ]
    document = {"@context": f"{_CRATE}/context", "@graph": graph}
    return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _root(contents: Contents, parts: Sequence[str], licences: Sequence[str]) -> dict[str, Any]:
    header, cited = contents.header, contents.header.citation
    size = _spell_size(header.files_count, header.files_bytes)
    root: dict[str, Any] = {
        "@id": "./",
        "@type": "Dataset",
        "name": contents.title,
        "description": f"{size}, gathered from the storages of the facilities by Catchment as the answer to a question."
        + (f" {_spell_missing(header.missing_count)}" if header.missing_count else "")
        + ("" if cited is None else f" Cite as: {cited.text}"),
        "identifier": header.query_id if cited is None else cited.url,
        "license": _links(licences or ["README.txt"]),
        "publisher": {"@id": _PUBLISHER},
        "hasPart": _links(parts),
    }
    if contents.licences:
        root["author"] = _links([_organization_id(source) for source in contents.sources])
    if cited is not None:
        root["version"] = str(cited.revision)
    if contents.at is not None:
        root["datePublished"] = f"{contents.at:%Y-%m-%d}"
    return root


def _links(ids: Sequence[str]) -> Any:
    """Return references to entities; JSON-LD has one by itself, not in a list."""
    links = [{"@id": one} for one in ids]
    return links[0] if len(links) == 1 else links


def _organization_id(source: Source) -> str:
    return f"#facility-{_iri(source.name)}"


def _organization(source: Source) -> dict[str, Any]:
    address = {"url": source.url} if source.url else {}
    return {"@id": _organization_id(source), "@type": "Organization", "name": source.title, **address}


def _describe_text(path: str, contents: Contents) -> dict[str, Any]:
    told: dict[str, Any] = {"@id": _iri(path), "@type": "File", "name": path, "encodingFormat": _format_of(path)}
    for source in contents.sources:
        if path == licence_path(source.name):
            told["@type"] = ["File", "CreativeWork"]
            told |= {"name": f"Licence and terms of {source.title}", "description": describe_terms(contents, source)}
    return told


def _describe_files(contents: Contents, licences: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {
            "@id": _iri(f"{DATA_FOLDER}/{entry.member}"),
            "@type": "File",
            "name": entry.source,
            "contentSize": str(entry.size_bytes),
            "encodingFormat": _format_of(entry.member),
            "sha256": entry.sha256,
            "author": {"@id": f"#facility-{_iri(entry.facility)}"},
            # What all have in common is said of the whole.
            **({"license": {"@id": _iri(licence_path(entry.facility))}} if len(licences) > 1 else {}),
        }
        for entry in contents.described or ()
    ]


def _describe_folders(contents: Contents) -> list[dict[str, Any]]:
    return [
        {
            "@id": _iri(f"{DATA_FOLDER}/{name}/"),
            "@type": "Dataset",
            "name": name,
            "description": f"{_spell_size(*numbers)}; manifest.json names each of them.",
        }
        for name, numbers in contents.folders.items()
    ]


_FORMATS = {
    "bib": "application/x-bibtex",
    "bz2": "application/x-bzip2",
    "cff": "application/yaml",
    "csv": "text/csv",
    "fit": "application/fits",
    "fits": "application/fits",
    "gz": "application/gzip",
    "h5": "application/x-hdf5",
    "hdf5": "application/x-hdf5",
    "json": "application/json",
    "txt": "text/plain",
    "xml": "application/xml",
    "xz": "application/x-xz",
    "yaml": "application/yaml",
    "yml": "application/yaml",
    "zst": "application/zstd",
}
"""Media types by ending; the system's own table differs from one to the next."""


def _format_of(path: str) -> str:
    return _FORMATS.get(path.rpartition(".")[2].lower(), "application/octet-stream")


def _iri(path: str) -> str:
    """Return a path as part of an address; letters of all languages may stay."""
    return re.sub(r"[\x00-\x7f]+", lambda plain: quote(plain[0], safe="/"), path)


def _one_line(text: str) -> str:
    return " ".join(text.split())
