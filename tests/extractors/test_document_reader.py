"""The readers of documents: JSON and YAML by pointers, XML by paths; valid, odd and hostile."""

import io
import json
import pickle
import time
from contextlib import suppress
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from extractors.errors import AddressError, ContentError, TooLargeError
from extractors.readers.address import parse_address
from extractors.readers.document import MAX_XML_DEPTH, XmlReader
from extractors.readers.pointers import MAX_LIST_VALUES, iter_matches, parse_pointer
from extractors.readers.reader import Content, RawValue, ReadLimits, load_reader
from extractors.readers.yaml_loading import MAX_DEPTH, load_yaml


def read(name: str, data: bytes, *texts: str, header_only: bool = False, max_bytes: int = 10**9) -> Content:
    reader = load_reader(name)
    addresses = [parse_address(text) for text in texts]
    for address in addresses:
        reader.check(address)
    limits = ReadLimits(header_only=header_only, max_unpacked_bytes=max_bytes)
    return reader.read(io.BytesIO(data), addresses, limits=limits)


def read_json(document: Any, *texts: str) -> Content:
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    return read("json", data, *texts)


def values(content: Content) -> dict[str, object]:
    assert not content.oddities
    return {text: raw.value for text, raw in content.values.items()}


# ------------------------------------------------------------------------------------------------------- JSON

RUN = {
    "run": {"id": 12, "start/utc": "2020-01-01T00:00:00", "~": True, "note": None},
    "energies": [2.5, None, 10],
    "hits": [{"t": 5, "ns": 7, "dom": "a"}, {"t": 5, "ns": 3, "dom": "b"}, {"t": 9, "ns": 1, "dom": "a"}],
    "ranges": {"low": {"min": 1, "max": 2}, "high": {"deep": {"min": 3, "max": 40}}},
}


def test_pointers_lead_to_values() -> None:
    assert values(read_json(RUN, "/run/id", "/run/start~1utc", "/run/~0", "/hits/1/dom", "/hits/2/t")) == {
        "/run/id": 12,
        "/run/start~1utc": "2020-01-01T00:00:00",
        "/run/~0": True,
        "/hits/1/dom": "b",
        "/hits/2/t": 9,
    }


def test_null_mappings_and_what_is_not_there_are_no_values() -> None:
    assert (
        read_json(RUN, "/run/note", "/run", "/gone", "/hits/7", "/hits/x", "/run/id/deeper", "min(/gone)") == Content()
    )


def test_wildcards_take_the_first_value_or_in_reductions_all() -> None:
    found = read_json(
        RUN, "/hits/*/dom", "/**/min", "min(/**/min)", "max(/**/max)", "distinct(/hits/*/dom)", "count(/**/t)"
    )
    assert values(found) == {
        "/hits/*/dom": "a", "/**/min": 1, "min(/**/min)": 1, "max(/**/max)": 40, "distinct(/hits/*/dom)": ("a", "b"),
        "count(/**/t)": 3,
    }  # fmt: skip


def test_lists_are_columns_in_which_null_is_a_missing_value() -> None:
    found = read_json(RUN, "min(/energies)", "max(/energies)", "count(/energies)", "rows(/energies)", "rows(/hits)")
    assert values(found) == {
        "min(/energies)": 2.5, "max(/energies)": 10.0, "count(/energies)": 2, "rows(/energies)": 3, "rows(/hits)": 3,
    }  # fmt: skip


def test_rows_are_compared_by_several_pointers() -> None:
    assert values(read_json(RUN, "min(/hits/*/t; /hits/*/ns)", "max(/hits/*/t;/hits/*/ns)")) == {
        "min(/hits/*/t; /hits/*/ns)": (5, 3),
        "max(/hits/*/t;/hits/*/ns)": (9, 1),
    }
    assert "not of one length" in read_json(RUN, "min(/hits/*/t; /run/id)").oddities["min(/hits/*/t; /run/id)"]


def test_a_whole_document_may_be_a_list_or_a_value() -> None:
    assert values(read_json([{"name": "x"}, {"name": "y"}], "rows(/)", "/1/name", "count(/*/name)")) == {
        "rows(/)": 2,
        "/1/name": "y",
        "count(/*/name)": 2,
    }
    assert values(read_json(5, "/")) == {"/": 5}


def test_a_short_list_is_one_value_and_a_long_or_mixed_one_is_odd() -> None:
    found = read_json(
        {"a": [1, 2], "b": list(range(MAX_LIST_VALUES + 1)), "c": [1, {}], "d": []}, "/a", "/b", "/c", "/d"
    )
    assert {text: raw.value for text, raw in found.values.items()} == {"/a": (1, 2)}
    assert set(found.oddities) == {"/b", "/c"}


def test_what_has_no_rows_and_words_without_order_say_so() -> None:
    found = read_json(RUN, "rows(/run/id)", "max(/hits/*/dom)")
    assert "no list" in found.oddities["rows(/run/id)"]
    assert "no column of numbers" in found.oddities["max(/hits/*/dom)"]


def test_a_key_that_stands_twice_is_odd_for_who_asks_for_it() -> None:
    data = b'{"a": 1, "b": 2, "a": {"x": 3}, "c": {"a": 7}}'
    found = read_json(data, "/a", "/b", "/a/x", "/c/a", "max(/a)", "min(/**/a)")
    assert {text: raw.value for text, raw in found.values.items()} == {"/b": 2, "/c/a": 7}
    assert set(found.oddities) == {"/a", "max(/a)", "min(/**/a)"}
    assert "twice" in found.oddities["/a"]


def test_nan_and_infinity_are_no_values() -> None:
    found = read_json(
        b'{"a": NaN, "b": [1, Infinity, -Infinity, NaN, 1e999], "c": 1e999}', "/a", "/c", "max(/b)", "count(/b)"
    )
    assert values(found) == {"max(/b)": 1.0, "count(/b)": 1}


def test_half_characters_and_endless_texts_do_not_leave_the_reader() -> None:
    document = b'{"half": "\\ud800", "long": "' + b"x" * 70_000 + b'", "good": "\\u00e9"}'
    found = read_json(document, "/half", "/long", "/good", "distinct(/half)")
    assert {text: raw.value for text, raw in found.values.items()} == {"/good": "é"}
    assert set(found.oddities) == {"/half", "/long", "distinct(/half)"}


def test_whole_numbers_beyond_64_bits_are_exact_alone_and_text_in_columns() -> None:
    found = read_json({"a": 2**70, "b": [2**70, 1]}, "/a", "distinct(/b)")
    assert values(found) == {"/a": 2**70, "distinct(/b)": ("1", str(2**70))}


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b'{"a": 1} x', b'{"a": "\xff"}', b"[" * 200_000, b'{"a":' * 200_000, b"9" * 5000, b"%PDF", b"\0" * 9],
    ids=["empty", "cut", "more", "bytes", "deep-lists", "deep-objects", "digits", "other", "zeros"],
)
def test_what_is_no_json_is_refused_as_a_whole(data: bytes) -> None:
    with pytest.raises(ContentError, match="JSON"):
        read_json(data, "/a")


def test_json_cut_off_anywhere_is_refused() -> None:
    data = json.dumps(RUN).encode()
    for length in range(len(data)):
        with pytest.raises(ContentError, match="no JSON"):
            read_json(data[:length], "/run/id")


@pytest.mark.parametrize("name", ["json", "yaml", "xml"])
def test_documents_that_are_too_large_are_refused_before_they_are_read(name: str) -> None:
    with pytest.raises(TooLargeError, match="1000 bytes"):
        read(name, b" " * 1001, "Who" if name == "xml" else "/a", max_bytes=1000)


def test_headers_alone_give_values_and_lengths_but_no_columns() -> None:
    data = json.dumps(RUN).encode()
    found = read("json", data, "/run/id", "rows(/hits)", "max(/energies)", header_only=True)
    assert values(found) == {"/run/id": 12, "rows(/hits)": 3}
    assert read("json", b"no json", "max(/energies)", header_only=True) == Content()


@pytest.mark.parametrize("address", ["run", "run/id", "/a~2b", "/~", "min(run)", "rows(run)", "min(/a; b)x", "x@y"])
def test_pointers_of_other_shapes_are_refused(address: str) -> None:
    for name in ("json", "yaml"):
        with pytest.raises(AddressError, match="expected a pointer"):
            load_reader(name).check(parse_address(address))


trees = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text("ab", max_size=2),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "0"]), below, max_size=3),
    max_leaves=12,
)


def walk(node: Any, steps: list[str]) -> list[int]:
    """Return the identity of each match, found in the plainest way."""
    if not steps:
        return [id(node)]
    children = list(node.items()) if isinstance(node, dict) else []
    children += [(str(index), child) for index, child in enumerate(node)] if isinstance(node, list) else []
    step, *rest = steps
    if step == "**":
        return walk(node, rest) + [match for _, child in children for match in walk(child, steps)]
    return [match for key, child in children if step in (key, "*") for match in walk(child, rest)]


@given(tree=trees, steps=st.lists(st.sampled_from(["a", "b", "0", "*", "**"]), min_size=1, max_size=4))
def test_pointers_match_what_a_plain_walk_matches(tree: Any, steps: list[str]) -> None:
    found = [id(node) for node in iter_matches(tree, parse_pointer("/" + "/".join(steps)))]
    assert set(found) == set(walk(tree, steps))
    if "**" not in steps:
        assert found == walk(tree, steps)


def test_a_pointer_of_any_depth_takes_each_place_once_and_in_a_bounded_time() -> None:
    tree: Any = 1
    for _ in range(400):
        tree = {"a": tree}
    begun = time.perf_counter()
    assert len(list(iter_matches(tree, parse_pointer("/**/a/**/a/**/a/**/a")))) == 397
    assert time.perf_counter() - begun < 5


# ------------------------------------------------------------------------------------------------------- YAML

SOURCE = b"""---
source_id: 58
common_name: M 87
flag: no
version: 1.10
code: 0058
when: 2010-02-03
sexagesimal: 12:30:46
livetime: 44.0h
empty:
pos: {ra: 12h30m46s, dec: {val: -12.5, err: .5}}
spec: &spec
  erange: {min: 0.2, max: 10., unit: TeV}
  norm: 1e-13
again: *spec
---
late: 5
spec: {erange: {min: 0.1, max: 2, unit: TeV}}
"""


def test_yaml_scalars_are_those_of_the_core_schema() -> None:
    found = read(
        "yaml", SOURCE, "/source_id", "/common_name", "/flag", "/version", "/code", "/when", "/sexagesimal",
        "/livetime", "/empty", "/pos/ra", "/pos/dec/val", "/pos/dec/err", "/spec/norm",
    )  # fmt: skip
    assert values(found) == {
        "/source_id": 58, "/common_name": "M 87", "/flag": "no", "/version": 1.1, "/code": "0058",
        "/when": "2010-02-03", "/sexagesimal": "12:30:46", "/livetime": "44.0h", "/pos/ra": "12h30m46s",
        "/pos/dec/val": -12.5, "/pos/dec/err": 0.5, "/spec/norm": 1e-13,
    }  # fmt: skip


def test_in_a_stream_of_documents_the_first_that_has_a_value_counts_and_columns_go_through_all() -> None:
    found = read("yaml", SOURCE, "/late", "/spec/erange/min", "min(/**/erange/min)", "count(/**/min)", "only(/**/unit)")
    assert values(found) == {
        "/late": 5, "/spec/erange/min": 0.2, "min(/**/erange/min)": 0.1, "count(/**/min)": 3, "only(/**/unit)": "TeV",
    }  # fmt: skip


# Without digits, because a writer of YAML 1.1 leaves "1e5" unquoted, and without what YAML 1.1 holds for line ends.
words = st.text(st.characters(exclude_categories=["C", "Zl", "Zp", "Nd"]), max_size=9)
written = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | words,
    lambda below: st.lists(below, max_size=3) | st.dictionaries(words, below, max_size=3),
    max_leaves=10,
)


@given(tree=written)
def test_what_yaml_writers_write_is_read_back(tree: Any) -> None:
    assert load_yaml(yaml.safe_dump(tree, allow_unicode=True).encode()) == [tree]


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system", "!experiment/object", "!!binary", "!<tag:x,1:y>"])
@pytest.mark.parametrize("value", ["[id]", "{a: id}", "text"])
def test_tags_make_nothing_and_only_their_own_value_is_lost(tag: str, value: str) -> None:
    found = read("yaml", f"a: {tag} {value}\nb: 5\n".encode(), "/a", "/b", "/a/0", "/a/a")
    assert {text: raw.value for text, raw in found.values.items()} == {"/b": 5}
    assert "tag" in found.oddities["/a"]


def test_the_tags_of_plain_structures_are_understood() -> None:
    data = (
        b"a: !!omap [x: 1, y: 2]\nb: !!str 12\nc: !!int '7'\nd: !!float 3\ne: !!timestamp 2010-01-01\nf: !!set {p, q}\n"
    )
    found = read("yaml", data, "/a/y", "/b", "/c", "/d", "/e", "count(/f/*)")
    assert values(found)["/a/y"] == 2
    assert [raw.value for raw in found.values.values()][1:] == ["12", 7, 3, "2010-01-01", 0]


def test_an_alias_bomb_is_refused_quickly() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    begun = time.perf_counter()
    with pytest.raises(ContentError, match="nodes"):
        read("yaml", "\n".join(lines).encode(), "count(/**/x)")
    assert time.perf_counter() - begun < 5


@pytest.mark.parametrize("data", [b"a: *gone\n", b"a: &a [*a]\n", b"--- &x 1\n--- *x\n"])
def test_aliases_of_nothing_or_of_themselves_are_refused(data: bytes) -> None:
    with pytest.raises(ContentError, match=r"alias|no YAML"):
        read("yaml", data, "/a")


@pytest.mark.parametrize("opening", [b"[", b"{a: ", b"- "])
def test_deep_yaml_is_refused_quickly(opening: bytes) -> None:
    begun = time.perf_counter()
    with pytest.raises(ContentError, match=f"more than {MAX_DEPTH} deep"):
        read("yaml", opening * 100_000, "/a")
    assert time.perf_counter() - begun < 5


def test_a_yaml_key_that_stands_twice_is_odd_for_who_asks_for_it() -> None:
    found = read("yaml", b"a: 1\nb: 2\na: 3\n", "/a", "/b")
    assert {text: raw.value for text, raw in found.values.items()} == {"/b": 2}
    assert "twice" in found.oddities["/a"]


def test_keys_of_yaml_that_are_no_text_are_spelled_or_left_out() -> None:
    found = read(
        "yaml", b"1: one\ntrue: yes\n? [a, b]\n: list\n? {c: d}\n: map\nnull: x\n", "/1", "/true", "/null", "count(/*)"
    )
    assert values(found) == {"/1": "one", "/true": "yes", "/null": "x", "count(/*)": 3}


@pytest.mark.parametrize(
    "data", [b"a: [1", b"a: 'open", b"\xff\xfe\xff", b"a: \xe9\n", b"\0\0", b"%TAG x\n", b"a: b: c"]
)
def test_what_is_no_yaml_is_refused(data: bytes) -> None:
    with pytest.raises(ContentError, match="no YAML"):
        read("yaml", data, "/a")


def test_an_empty_stream_has_no_values() -> None:
    assert read("yaml", b"", "/a", "min(/a)", "rows(/)") == Content()


def test_yaml_cut_off_anywhere_is_read_as_far_as_it_goes_or_refused() -> None:
    for length in range(len(SOURCE)):
        with suppress(ContentError):
            found = read("yaml", SOURCE[:length], "/source_id", "max(/**/max)")
            assert found.values.get("/source_id", RawValue(value=58)).value in (5, 58, "source_id")


# -------------------------------------------------------------------------------------------------------- XML

ALERT = b"""<?xml version="1.0" encoding="UTF-8"?>
<voe:VOEvent ivorn="ivo://x#1" role="observation" xmlns:voe="http://www.ivoa.net/xml/VOEvent/v2.0"
             xmlns:x="urn:x" x:state="good">
  <What>
    <Param name="Energy" value="120" unit="PeV" />
    <Param name="Energy2" value="7.5" unit="TeV"/>
    <Param name="Word"/>
    <Group><Group><Param name="Deep" value="-3"/></Group></Group>
    <x:Other>5</x:Other>
  </What>
  <WhereWhen><Time><ISOTime>
     2023-02-13T01:16:47 </ISOTime></Time><Empty/><C1>94.3</C1><C1>95.3</C1></WhereWhen>
  <Note>from <b>the</b> author</Note>
</voe:VOEvent>
"""


def test_paths_lead_to_texts_and_attributes() -> None:
    found = read(
        "xml", ALERT, ".//Param[@name='Energy']@value", ".//Param[@name='Energy']@unit", ".//ISOTime", "@ivorn",
        ".@role", "What/{*}Other", "What/{urn:x}Other", "@{urn:x}state", "@{*}state", "Note", "WhereWhen/C1[2]",
    )  # fmt: skip
    assert values(found) == {
        ".//Param[@name='Energy']@value": "120", ".//Param[@name='Energy']@unit": "PeV",
        ".//ISOTime": "2023-02-13T01:16:47", "@ivorn": "ivo://x#1", ".@role": "observation", "What/{*}Other": "5",
        "What/{urn:x}Other": "5", "@{urn:x}state": "good", "@{*}state": "good", "Note": "from the author",
        "WhereWhen/C1[2]": "95.3",
    }  # fmt: skip


def test_what_is_not_there_or_empty_is_no_value() -> None:
    assert (
        read("xml", ALERT, ".//Gone", ".//Empty", "@gone", ".//Param@gone", "min(.//Gone)", ".//Empty@x") == Content()
    )


def test_reductions_and_counts_take_every_match_once() -> None:
    found = read(
        "xml",
        ALERT,
        "max(.//Param@value)",
        "count(.//Param@value)",
        "rows(.//Group//Param)",
        "sum(.//C1)",
        "rows(.//Z)",
    )
    assert values(found) == {
        "max(.//Param@value)": 120.0, "count(.//Param@value)": 3, "rows(.//Group//Param)": 1, "sum(.//C1)": 189.6,
        "rows(.//Z)": 0,
    }  # fmt: skip
    assert read("xml", ALERT, "min(.//Param@value; .//C1)").oddities


@pytest.mark.parametrize(
    "declaration",
    [
        '<!DOCTYPE a [<!ENTITY e "x">]>',
        '<!DOCTYPE a [<!ENTITY e SYSTEM "file:///etc/passwd">]>',
        '<!DOCTYPE a SYSTEM "http://127.0.0.1:9/x.dtd">',
        '<!DOCTYPE a [<!ENTITY l "l"><!ENTITY m "&l;&l;&l;&l;"><!ENTITY n "&m;&m;&m;&m;">]>',
        '<!DOCTYPE a [<!ENTITY % p SYSTEM "http://127.0.0.1:9/p"> %p;]>',
        "<!DOCTYPE a>",
    ],
)
def test_declarations_and_entities_are_refused(declaration: str) -> None:
    with pytest.raises(ContentError, match="DTD or entities"):
        read("xml", f"{declaration}<a>&e;</a>".encode(), ".")


def test_nothing_is_included_from_elsewhere() -> None:
    data = b'<a xmlns:xi="http://www.w3.org/2001/XInclude"><xi:include href="/etc/passwd" parse="text"/><b>1</b></a>'
    assert values(read("xml", data, ".", "b")) == {".": "1", "b": "1"}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<a>",
        b"<a></b>",
        b"text",
        b"<a>\xff</a>",
        b'<?xml version="1.0" encoding="nonsense"?><a/>',
        b"<a/><b/>",
        b"\0",
    ],
)
def test_what_is_no_xml_is_refused(data: bytes) -> None:
    with pytest.raises(ContentError, match="no XML"):
        read("xml", data, ".")


def test_xml_cut_off_anywhere_is_refused() -> None:
    for length in range(len(ALERT.rstrip())):
        with pytest.raises(ContentError, match="no XML"):
            read("xml", ALERT[:length], ".//ISOTime")


def test_deep_xml_is_refused_quickly() -> None:
    begun = time.perf_counter()
    with pytest.raises(ContentError, match=str(MAX_XML_DEPTH)):
        read("xml", b"<a>" * 1_000_000, ".//a//a//a")
    assert time.perf_counter() - begun < 5


def test_xml_with_too_many_elements_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("extractors.readers.document.MAX_XML_ELEMENTS", 1000)
    with pytest.raises(ContentError, match="over 1000 elements"):
        read("xml", b"<r>" + b"<a/>" * 1000 + b"</r>", "rows(a)")


@pytest.mark.parametrize(
    "address", ["/a", "a[", "a[@b=c]", "p:name", "a/@b/c", "rows(a[)", "min(/x)", "a[0]", "a@b@c["]
)
def test_paths_of_other_shapes_are_refused(address: str) -> None:
    with pytest.raises(AddressError, match="expected a path"):
        XmlReader().check(parse_address(address))


# --------------------------------------------------------------------------------------------------- all alike


@pytest.mark.parametrize("name", ["json", "yaml", "xml"])
@given(data=st.binary(max_size=60) | st.text('[]{}"\\:,-&*!|>?%<a1/=\n ', max_size=60).map(str.encode))
def test_no_bytes_make_a_reader_fail(name: str, data: bytes) -> None:
    texts = (
        [".", ".//a@a", "rows(.//a)", "max(.//a)"]
        if name == "xml"
        else ["/", "/**", "/a/*", "rows(/)", "distinct(/**)"]
    )
    with suppress(ContentError):
        read(name, data, *texts)


@pytest.mark.parametrize("name", ["json", "yaml", "xml"])
def test_the_readers_can_be_sent_to_other_processes(name: str) -> None:
    assert type(pickle.loads(pickle.dumps(load_reader(name)))) is type(load_reader(name))
