"""The sky in HEALPix cells: where a position lies, and which cells a cone touches.

Cells of order 29 in the nested scheme, whose numbers begin alike when they lie in one coarser cell: a cone is a few
ranges of numbers. The cells are computed by cdshealpix; it brings astropy's coordinates along, half a second of loading
that is only paid where positions are.
"""

from collections.abc import Sequence

import numpy as np

from metadata_db.query import Cone

ORDER = 29
"""Order of the cells that files are catalogued with, the finest that fits 64 bits: 0.4 milliarcseconds."""

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
    cells = lonlat_to_healpix(Longitude(ra_deg, unit="deg"), Latitude(dec_deg, unit="deg"), ORDER, num_threads=1)
    found = iter(cells.tolist())
    return [None if position is None else next(found) for position in positions]


def cone_ranges(cone: Cone) -> list[tuple[int, int]]:
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
    shifts = (2 * (ORDER - orders.astype(int))).tolist()
    for begin, end in sorted((n << s, (n + 1) << s) for n, s in zip(numbers.tolist(), shifts, strict=True)):
        if ranges and ranges[-1][1] >= begin:
            ranges[-1] = (ranges[-1][0], max(end, ranges[-1][1]))
        else:
            ranges.append((begin, end))
    return ranges


def _fitting_order(radius_deg: float) -> int:
    """Return the order whose cells are about a sixteenth of the radius: some dozens of ranges, whatever the radius."""
    order, cell_deg = 0, 58.6
    while cell_deg * 16 > radius_deg and order < MAX_RANGES_ORDER:
        order, cell_deg = order + 1, cell_deg / 2
    return order
