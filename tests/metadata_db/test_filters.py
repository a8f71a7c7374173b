"""What narrows a look-up must never narrow its answer."""

import re

from hypothesis import given
from hypothesis import strategies as st

from metadata_db.filters import like_of
from metadata_db.query import glob_to_regex

PIECES = st.sampled_from(["*", "**", "**/", "?", "[ab]", "[!ab]", "[]]", "a", "b", "/", "%", "_", "\\", ".", "ü"])


def matches_like(pattern: str, path: str) -> bool:
    """Tell what LIKE says, in plain Python."""
    signs = re.findall(r"\\.|.", pattern, re.DOTALL)
    parts = [{"%": ".*", "_": "."}.get(sign) or re.escape(sign[-1]) for sign in signs]
    return re.fullmatch("".join(parts), path, re.DOTALL) is not None


@given(st.lists(PIECES, min_size=1, max_size=8).map("".join), st.text("ab/%_\\.ü]", max_size=8))
def test_like_rules_out_no_path_that_a_pattern_matches(glob: str, path: str) -> None:
    if re.match(glob_to_regex(glob), path, re.DOTALL):
        assert matches_like(like_of(glob), path)


def test_like_takes_its_own_signs_literally() -> None:
    assert like_of("100%_\\**/[ab]?.fits") == r"100\%\_\\%__.fits"
