"""What the tests of trees have in common: what a walk found, and names of files."""

from hypothesis import strategies as st

from extractors.storages.trees import RejectedFile, ScannedFile, Tree

NAMES = st.text(st.sampled_from(" !-./0Aaé一🜨~"), min_size=1, max_size=3).filter(
    lambda name: "/" not in name and name not in (".", "..")
)
"""Names that sort differently as text, as bytes and as paths."""


def files_of(tree: Tree) -> list[str]:
    """Return the paths of the good files, in the order of the walk."""
    return [found.path for found in tree.walk() if isinstance(found, ScannedFile)]


def rejections_of(tree: Tree) -> list[RejectedFile]:
    return [found for found in tree.walk() if isinstance(found, RejectedFile)]


def read(tree: Tree, path: str) -> bytes:
    with tree.open(path) as stream:
        return stream.read()
