"""What can be opened through the global mount point, and what cannot, however it is dressed up."""

import os
import threading
from pathlib import Path

import pytest

from aggregator.errors import StagingError
from aggregator.staging.mounts import LEAVES, GlobalMountPoint, StorageDownError, _open_without_links, open_below
from metadata_db.members import Place
from tests.support.privileges import bound_by_modes


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "storage" / "night").mkdir(parents=True)
    (tmp_path / "storage" / "night" / "a.fits").write_bytes(b"public")
    (tmp_path / "storage-secret").write_bytes(b"secret")
    return tmp_path / "storage"


def place(root: Path, path: str, *, kind: str = "local", enabled: bool = True) -> Place:
    return Place(storage="disk", root=str(root), path=path, kind=kind, enabled=enabled)


def reason(root: Path, path: str) -> str:
    with pytest.raises(StagingError) as caught:
        GlobalMountPoint().open(place(root, path))
    return caught.value.reason


def test_a_file_is_opened_for_reading_only(root: Path) -> None:
    with GlobalMountPoint().open(place(root, "night/a.fits")) as found:
        assert found.read() == b"public"
        assert not found.writable()


def test_links_that_stay_in_the_storage_are_followed(root: Path) -> None:
    (root / "latest").symlink_to("night")
    (root / "night" / "b.fits").symlink_to(root / "night" / "a.fits")
    for path in ("latest/a.fits", "latest/b.fits"):
        with GlobalMountPoint().open(place(root, path)) as found:
            assert found.read() == b"public"


def test_the_root_itself_may_be_a_link(root: Path) -> None:
    (root.parent / "mount").symlink_to(root)
    with GlobalMountPoint().open(place(root.parent / "mount", "night/a.fits")) as found:
        assert found.read() == b"public"


@pytest.mark.parametrize(
    "path", ["../storage-secret", "night/../../storage-secret", "/etc/passwd", "..", ".", "night/.."]
)
def test_a_path_that_climbs_is_refused(root: Path, path: str) -> None:
    assert reason(root, path) == LEAVES


@pytest.mark.parametrize(
    "target", ["/etc/passwd", "../storage-secret", "../../storage-secret", "/dev/zero", "/proc/self/environ"]
)
def test_a_link_that_leaves_is_not_followed(root: Path, target: str) -> None:
    link = root / "night" / "link"
    link.symlink_to(target.replace("../storage", "../../storage", 1) if target.startswith("../storage") else target)
    assert reason(root, "night/link") in (LEAVES, "not found")


def test_a_folder_that_is_a_link_out_of_the_storage_is_not_followed(root: Path) -> None:
    (root.parent / "elsewhere").mkdir()
    (root.parent / "elsewhere" / "a").write_bytes(b"secret")
    (root / "folder").symlink_to(root.parent / "elsewhere")
    assert reason(root, "folder/a") == LEAVES


def test_only_regular_files_are_opened_and_a_pipe_does_not_hang(root: Path) -> None:
    os.mkfifo(root / "pipe")
    assert reason(root, "pipe") == "is not a regular file"
    assert reason(root, "night") == "is not a regular file"
    assert reason(root, "missing") == "not found"
    assert reason(root, "night/a.fits/deeper") == "not found"


def test_an_unreadable_file_says_so(root: Path) -> None:
    (root / "night" / "a.fits").chmod(0)
    with bound_by_modes():
        assert reason(root, "night/a.fits") == "permission denied"


def test_a_switched_off_storage_and_an_unknown_kind_are_the_files_reason(root: Path) -> None:
    with pytest.raises(StagingError, match="switched off"):
        GlobalMountPoint().open(place(root, "night/a.fits", enabled=False))
    with pytest.raises(StagingError, match="'tape'"):
        GlobalMountPoint().open(place(root, "night/a.fits", kind="tape"))


def test_an_absent_or_empty_root_is_a_storage_that_is_down(root: Path) -> None:
    with pytest.raises(StorageDownError, match="storage root is not there"):
        GlobalMountPoint().open(place(root / "nowhere", "a"))
    (root / "mountpoint").mkdir()
    with pytest.raises(StorageDownError, match="as if it were not mounted"):
        GlobalMountPoint().open(place(root / "mountpoint", "a"))


def test_a_link_that_appears_after_the_check_is_not_followed(root: Path) -> None:
    (root / "night" / "late").symlink_to(root.parent / "storage-secret")
    (root / "late").symlink_to(root.parent)
    for parts in (["night", "late"], ["late", "storage-secret"]):
        with pytest.raises(OSError, match=LEAVES if parts[0] == "night" else "Not a directory|symbolic"):
            _open_without_links(str(root), parts)


def test_a_file_swapped_with_a_link_thousands_of_times_never_shows_the_other_side(root: Path) -> None:
    target, secret, done = root / "night" / "a.fits", root.parent / "storage-secret", threading.Event()

    def swap() -> None:
        turn = 0
        while not done.is_set():
            turn += 1
            passing = root / f"passing-{turn % 2}"
            if turn % 2:
                passing.symlink_to(secret)
            else:
                passing.write_bytes(b"public")
            passing.replace(target)

    swapping = threading.Thread(target=swap)
    swapping.start()
    seen = set()
    try:
        for _ in range(3000):
            try:
                with open_below(root, "night/a.fits") as found:
                    seen.add(found.read())
            except OSError:
                seen.add(b"refused")
    finally:
        done.set()
        swapping.join()
    assert seen == {b"public", b"refused"}
