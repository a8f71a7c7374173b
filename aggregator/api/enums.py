"""Enumerations of the schema: their names there, and what each value says.

They are the classes that the catalogue and the service use themselves; importing this module marks them for Strawberry.
"""

from collections.abc import Mapping
from enum import Enum
from typing import Any

import strawberry

from aggregator.controller import Prepare
from aggregator.staging.ledger import ExportState
from metadata_db.differences import DifferenceKind
from metadata_db.query import EnergyUnit
from metadata_db.search import FacetField, OrderField
from metadata_db.timeline import TimeBin


def _declare(kind: type[Enum], name: str, description: str, values: Mapping[Any, str]) -> None:
    strawberry.enum(kind, name=name, description=description)
    for value in kind.__strawberry_definition__.values:  # type: ignore[attr-defined]  # set just now
        value.description = values[kind[value.name]]


_declare(
    Prepare,
    "Prepare",
    "Whether a search starts the full response.",
    {
        Prepare.AUTO: "Start it when files and bytes are within the limits of the installation.",
        Prepare.NEVER: "Only answer; `prepare` can be asked for later.",
    },
)
_declare(
    ExportState,
    "ExportState",
    "Where an export is in its life.",
    {
        ExportState.INITIALIZED: "It is asked for and waits for a worker.",
        ExportState.WRITING: "Its files are gathered and verified.",
        ExportState.COMPLETED: "It can be taken; files that could not be had are named in its manifest.",
        ExportState.EXPIRED: "It was not used for long and is about to be removed.",
        ExportState.DELETED: "Its files are removed; it can be prepared again.",
        ExportState.ERROR: "It could not be completed; `Export.error` says why.",
        ExportState.CANCELLED: "It was stopped before it was complete.",
    },
)
_declare(
    DifferenceKind,
    "DiffKind",
    "What became of a file between two answers.",
    {
        DifferenceKind.ADDED: "It is in the later answer only.",
        DifferenceKind.REMOVED: "It is in the earlier answer only.",
        DifferenceKind.REPLACED: "It is in both, as two versions.",
    },
)
_declare(
    EnergyUnit,
    "EnergyUnit",
    "Unit of an energy in a question.",
    {
        EnergyUnit.EV: "Electronvolt.",
        EnergyUnit.KEV: "Kiloelectronvolt, 10^3 eV.",
        EnergyUnit.MEV: "Megaelectronvolt, 10^6 eV.",
        EnergyUnit.GEV: "Gigaelectronvolt, 10^9 eV.",
        EnergyUnit.TEV: "Teraelectronvolt, 10^12 eV.",
        EnergyUnit.PEV: "Petaelectronvolt, 10^15 eV.",
        EnergyUnit.EEV: "Exaelectronvolt, 10^18 eV.",
    },
)
_declare(
    FacetField,
    "FacetField",
    "What files can be counted by.",
    {
        FacetField.FACILITY: "Who measured.",
        FacetField.CLUSTER: "Station or group of detectors.",
        FacetField.DETECTOR: "Instrument.",
        FacetField.CHANNEL: "Data channel.",
        FacetField.STORAGE: "Where the files are kept.",
        FacetField.LEVEL: "Data level, in the facilities' words.",
        FacetField.KIND: "What the files hold.",
        FacetField.FORMAT: "Format of the stored bytes.",
        FacetField.OBJECT: "Name of the observed object, verbatim.",
        FacetField.PROCESSING: "Name of the processing that made the files.",
        FacetField.QUALITY: "Quality, in the facilities' words.",
        FacetField.CONDITIONS: "Observing conditions, in the facilities' words.",
    },
)
_declare(
    OrderField,
    "FileOrderField",
    "What files can be ordered by.",
    {
        OrderField.TIME_BEGIN: "Begin of the measurement.",
        OrderField.PATH: "Path below the storage's root, by its bytes.",
        OrderField.SIZE_BYTES: "Size, bytes.",
        OrderField.RUN: "Run number.",
        OrderField.CATALOGUED: "When this version of the file was catalogued.",
    },
)
_declare(
    TimeBin,
    "TimeBin",
    "Bins of the calendar, in UTC; weeks begin on Monday.",
    {
        TimeBin.YEAR: "Calendar years.",
        TimeBin.MONTH: "Calendar months.",
        TimeBin.WEEK: "Weeks of ISO 8601, from Monday.",
        TimeBin.DAY: "Days.",
        TimeBin.HOUR: "Hours.",
    },
)
