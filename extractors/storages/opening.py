"""Opens the tree that an address names, whatever kind of storage that is."""

from pathlib import Path

from extractors.errors import StorageError
from extractors.storages.local_tree import LocalTree
from extractors.storages.remote_tree import RemoteTree
from extractors.storages.trees import Tree


def open_tree(root: str) -> Tree:
    """Return the tree at `root`: a folder, or an address with ``://`` such as ``s3://bucket/prefix``.

    Raises
    ------
    StorageError
        The address holds a password or a query, or is no address of a folder.
    """
    protocol, separator, rest = root.partition("://")
    if not separator:
        return LocalTree(Path(root))
    if protocol in ("file", "local"):
        if not rest.startswith("/"):
            raise StorageError(root, "is no folder of this computer, expected file:// and an absolute path")
        return LocalTree(Path(rest))
    return RemoteTree(root)
