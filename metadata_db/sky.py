"""The sky in HEALPix cells: where a position lies, and which cells a cone touches.

Cells of order 29 in the nested scheme, whose numbers begin alike when they lie in one coarser cell: a cone is a few
ranges of numbers. The cells are computed by cdshealpix; it brings astropy's coordinates along, half a second of loading
that is only paid where positions are.
"""

from collections.abc import Sequence
from functools import lru_cache

import msgspec
import numpy as np

from metadata_db.query import Cone

HPX_ORDER = 29
"""HEALPix order of `file.hpx`, the finest that fits 64 bits: 0.4 milliarcseconds."""

CONE_ORDER = 10
"""HEALPix order of the cells that cones are looked up by, 3.4 arcminutes."""

MAX_RANGES_ORDER = 12
"""Finest order of the cells that a cone is made of, some 50 arcseconds."""


def find_cells(positions: Sequence[tuple[float, float] | None]) -> list[int | None]:
    """Return the cell of each position (right ascension and declination, degrees), None for none."""
    known = [position for position in positions if position is not None]
    if not known:
        return [None] * len(positions)
    from astropy.coordinates import Latitude, Longitude
    from cdshealpix.nested import lonlat_to_healpix

    ra_deg, dec_deg = np.array(known).T
    cells = lonlat_to_healpix(Longitude(ra_deg, unit="deg"), Latitude(dec_deg, unit="deg"), HPX_ORDER, num_threads=1)
    found = iter(cells.tolist())
    return [None if position is None else next(found) for position in positions]


@lru_cache(maxsize=256)
def cone_ranges(cone: Cone) -> Sequence[tuple[int, int]]:
    """Return ranges of cells, the second end excluded, that together hold the cone and little more."""
    from astropy import units
    from astropy.coordinates import Latitude, Longitude
    from cdshealpix.nested import cone_search

    order = _fitting_order(cone.radius_deg)
    # A hair wider than asked: what rounding leaves out no exact test can bring back.
    radius = min(180.0, cone.radius_deg * (1 + 1e-9) + 1e-9)
    numbers, orders, _ = cone_search(
        Longitude(cone.ra_deg, unit="deg"), Latitude(cone.dec_deg, unit="deg"), radius * units.deg, order
    )
    ranges: list[tuple[int, int]] = []
    shifts = (2 * (HPX_ORDER - orders.astype(int))).tolist()
    for begin, end in sorted((n << s, (n + 1) << s) for n, s in zip(numbers.tolist(), shifts, strict=True)):
        if ranges and ranges[-1][1] >= begin:
            ranges[-1] = (ranges[-1][0], max(end, ranges[-1][1]))
        else:
            ranges.append((begin, end))
    return ranges


def cut_at_cells(ranges: Sequence[tuple[int, int]], *, at_most: int) -> list[tuple[int, int, int]] | None:
    """Return ranges of cells in pieces, each with the cell of order `CONE_ORDER` it lies in; None when that is many."""
    if sum(((over - 1) >> _CONE_SHIFT) - (begin >> _CONE_SHIFT) + 1 for begin, over in ranges) > at_most:
        return None
    return [
        (cell, max(begin, cell << _CONE_SHIFT), min(over, (cell + 1) << _CONE_SHIFT))
        for begin, over in ranges
        for cell in range(begin >> _CONE_SHIFT, ((over - 1) >> _CONE_SHIFT) + 1)
    ]


_CONE_SHIFT = 2 * (HPX_ORDER - CONE_ORDER)


def _fitting_order(radius_deg: float) -> int:
    """Return the order whose cells are about a sixteenth of the radius: some dozens of ranges, whatever the radius."""
    order, cell_deg = 0, 58.6
    while cell_deg * 16 > radius_deg and order < MAX_RANGES_ORDER:
        order, cell_deg = order + 1, cell_deg / 2
    return order


# --- maps -------------------------------------------------------------------------------------------------------------

MAX_MAP_ORDER = 10
"""Finest order of the cells that files are counted by: 3.4 arcminutes."""


class SkyMap(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """How many files have their position in each cell that has any."""

    order: int
    scheme: str = "nested"
    frame: str = "ICRS"
    cells: bytes
    """Numbers of cells, ascending, little-endian uint32."""
    counts: bytes
    """Files in them, little-endian uint32."""
    is_estimate: bool
    no_position: int
    """Files of the answer that have no position."""


def make_sky_map(
    order: int, cells: bytes | None, counts: bytes | None, no_position: int, *, weight: float, is_estimate: bool
) -> SkyMap:
    """Return the map that two texts of big-endian 32-bit numbers say; each file stands for `weight` files."""
    files = np.frombuffer(counts or b"", ">u4")
    return SkyMap(
        order=order,
        cells=np.frombuffer(cells or b"", ">u4").astype("<u4").tobytes(),
        counts=np.rint(files * weight).astype("<u4").tobytes(),
        is_estimate=is_estimate,
        no_position=round(no_position * weight),
    )
