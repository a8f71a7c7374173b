"""The catalogue's tables. What they mean is said in `records.py`; why they look so is said here.

A change never overwrites: a File that changes moves to `file_history` with `removed_in`, and a new row with `added_in`
takes its place. The numbers are revisions of the file's facility, so any question can be asked as of an earlier one.
"""

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Computed,
    DateTime,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    Interval,
    LargeBinary,
    MetaData,
    Numeric,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

# They stand where those find them who need no tables, and are wanted soon.
from metadata_db.sky import HPX_ORDER as HPX_ORDER
from metadata_db.strata import STRATUM_COLUMNS as STRATUM_COLUMNS

metadata = MetaData(
    naming_convention={
        "ix": "%(table_name)s_%(column_0_N_name)s_idx",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "ck": "%(table_name)s_%(constraint_name)s_check",
        "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
        "pk": "%(table_name)s_pkey",
    }
)


def _now() -> Column[object]:
    return Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now())


def _place() -> list[Column[float]]:
    return [Column("latitude_deg", Double), Column("longitude_deg", Double), Column("altitude_m", Double)]


# --- vocabulary -----------------------------------------------------------------------------------------------------

authority = Table(
    "authority",
    metadata,
    Column("id", SmallInteger, Identity(), primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("title", Text),
    Column("contact", Text),
    Column("licence", Text),
    Column("terms", Text),
)

facility = Table(
    "facility",
    metadata,
    Column("id", SmallInteger, Identity(), primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("title", Text),
    Column("place", Text),
    *_place(),
    Column("url", Text),
    Column("authority_id", ForeignKey("authority.id")),
    # Moved by one by every ingest transaction that changed something; see architecture, section 1.
    Column("revision", BigInteger, nullable=False, server_default=text("0")),
    # Length of the longest file there ever was, of those up to a day: how far an overlap search looks back. Longer
    # files have an index of their own.
    Column("longest", Interval, nullable=False, server_default=text("'0'")),
    # Number of the change that made the revision: puts the revisions of all facilities in one order.
    Column("change_id", BigInteger, nullable=False, server_default=text("0")),
)

cluster = Table(
    "cluster",
    metadata,
    Column("id", Integer, Identity(), primary_key=True),
    Column("facility_id", ForeignKey("facility.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("title", Text),
    *_place(),
    UniqueConstraint("facility_id", "name"),
)

detector = Table(
    "detector",
    metadata,
    Column("id", Integer, Identity(), primary_key=True),
    Column("facility_id", ForeignKey("facility.id"), nullable=False),
    Column("cluster_id", ForeignKey("cluster.id")),
    Column("name", Text, nullable=False),
    Column("title", Text),
    Column("kind", Text),
    UniqueConstraint("facility_id", "name"),
)

channel = Table(
    "channel",
    metadata,
    Column("id", Integer, Identity(), primary_key=True),
    Column("facility_id", ForeignKey("facility.id"), nullable=False),
    Column("detector_id", ForeignKey("detector.id")),
    Column("name", Text, nullable=False),
    Column("title", Text),
    UniqueConstraint("facility_id", "name"),
)

attribute = Table(
    "attribute",
    metadata,
    Column("id", Integer, Identity(), primary_key=True),
    Column("facility_id", ForeignKey("facility.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("unit", Text),
    Column("meaning", Text),
    UniqueConstraint("facility_id", "name"),
)

storage = Table(
    "storage",
    metadata,
    Column("id", SmallInteger, Identity(), primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("kind", Text, nullable=False),
    Column("root", Text, nullable=False),
    Column("title", Text),
    Column("facility_id", ForeignKey("facility.id")),
    Column("enabled", Boolean, nullable=False, server_default=text("true")),
    CheckConstraint("kind in ('local', 'remote')", name="kind"),
)

# --- files ----------------------------------------------------------------------------------------------------------


def _version_columns() -> list[Column[Any]]:
    """Columns of one version of a file; `file` holds the living ones, `file_history` those that ended."""
    return [
        # Numbers of the vocabulary, whose rows are never deleted. As foreign keys the five of them cost more than half
        # of an ingest (19 of 37 µs a row, measured), and could only catch a defect of our own.
        Column("facility_id", SmallInteger, nullable=False),
        Column("storage_id", SmallInteger, nullable=False),
        # In the order of the bytes, whatever the database's own collation: scans merge listings with what they walk.
        Column("path", Text(collation="C"), nullable=False),
        Column("size_bytes", BigInteger, nullable=False),
        Column("sha256", LargeBinary),
        Column("md5", LargeBinary),
        Column("modified_at", DateTime(timezone=True)),
        Column("format", Text),
        Column("kind", Text),
        Column("level", Text),
        Column("cluster_id", Integer),
        Column("detector_id", Integer),
        Column("channel_id", Integer),
        Column("time_begin", DateTime(timezone=True)),
        Column("time_end", DateTime(timezone=True)),
        Column("obs_id", Text),
        Column("run", BigInteger),
        Column("ra_deg", Double),
        Column("dec_deg", Double),
        Column("position_basis", Text),
        Column("energy_min_ev", Double),
        Column("energy_max_ev", Double),
        Column("energy_basis", Text),
        Column("object", Text),
        Column("n_events", BigInteger),
        Column("is_simulation", Boolean),
        Column("processing", Text),
        Column("quality", Text),
        Column("conditions", Text),
        Column("licence", Text),
        Column("attributes", JSONB, nullable=False),
        Column("provenance", JSONB, nullable=False),
        Column("warnings", JSONB, nullable=False),
        Column("description", Text),
        # What the file is to others, as it was sent; null when nothing.
        Column("relations", JSONB),
        # Digest of what the record says: tells a changed record from an equal one without comparing forty columns.
        Column("digest", LargeBinary, nullable=False),
        # Digest of how it was read: description, provenance and warnings; null when there are none of them.
        Column("reading", LargeBinary),
        # When a record with a sha256 last came. Like `reading` in no index, so that moving it on touches the row alone.
        Column("checked_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
        # Two halves of a hash of (storage, path, size, sha256); their sums over a set are the set's checksum.
        Column("fingerprint_high", BigInteger, nullable=False),
        Column("fingerprint_low", BigInteger, nullable=False),
        # The first moment after the file: its end, or a microsecond after its begin when it has no length.
        Column("time_over", DateTime(timezone=True)),
        # HEALPix cell of the position: order 29, nested scheme.
        Column("hpx", BigInteger),
        # What it is counted with, see `stratum`.
        Column("stratum_id", Integer, nullable=False),
        Column("added_in", BigInteger, nullable=False),
    ]


def _version_checks() -> list[CheckConstraint]:
    return [
        CheckConstraint("size_bytes >= 0", name="size"),
        CheckConstraint("time_end >= time_begin", name="time"),
        CheckConstraint("(time_over is null) = (time_begin is null)", name="over"),
    ]


IS_LONG = "time_over - time_begin > interval '1 day'"
"""Files that a search for an interval does not find by looking back from its begin, but in an index of their own."""

SAMPLE_SHARE, IN_SAMPLE = 16, "fingerprint_low & 15 = 0"
"""One file in so many, whichever it is: fingerprints are as good as random."""

SAMPLE_SLOTS, SAMPLE_SLOT = 256, "(fingerprint_low >> 4) & 255"
"""Parts of the sample, for when all of it is too much."""

SUMMED = ("time_over", "stratum_id", "size_bytes", "fingerprint_high", "fingerprint_low")
"""What counts need of a file, beside where its time begins."""

CONE_CELL = "(hpx >> 38)::int4"
"""Cell of a file, of the order that cones are looked up by."""

file = Table(
    "file",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    *_version_columns(),
    # Digest of the line as it was sent: the same line again says the same, and need not be read to know it.
    Column("line_digest", LargeBinary),
    *_version_checks(),
    Index("file_storage_id_path_key", "storage_id", "path", unique=True),
    Index("file_time_begin_id_idx", "time_begin", "id"),
    # Serves counts as well: all that sums and the usual conditions need stands in the index.
    Index(
        "file_facility_id_time_begin_id_idx",
        "facility_id",
        "time_begin",
        "id",
        postgresql_include=[
            "time_over",
            "stratum_id",
            "size_bytes",
            "fingerprint_high",
            "fingerprint_low",
            "energy_min_ev",
            "energy_max_ev",
        ],
    ),
    Index(
        "file_long_idx",
        text("tstzrange(time_begin, time_over)"),
        postgresql_using="gist",
        postgresql_where=text(IS_LONG),
    ),
    Index("file_facility_id_run_idx", "facility_id", "run", postgresql_where=text("run is not null")),
    Index("file_obs_id_idx", "obs_id", postgresql_where=text("obs_id is not null")),
    Index("file_object_time_begin_id_idx", "object", "time_begin", "id", postgresql_where=text("object is not null")),
    # By time within a small cell, so that a piece of sky in a season is a few short ranges; what lies beside a cone in
    # its cells is told by the index alone.
    Index("file_hpx_idx", text(f"({CONE_CELL})"), "time_begin", "hpx", postgresql_where=text("hpx is not null")),
    # Asked for equality only, and a digest has no order: a hash index is less than half as large.
    Index("file_sha256_idx", "sha256", postgresql_using="hash", postgresql_where=text("sha256 is not null")),
    # What came since a revision.
    Index("file_facility_id_added_in_idx", "facility_id", "added_in"),
    # Samples lie all over the table: what is summed of them, and the most usual conditions, are told by their indexes.
    Index(
        "file_sample_idx",
        "facility_id",
        text(SAMPLE_SLOT),
        "time_begin",
        postgresql_where=text(IN_SAMPLE),
        postgresql_include=[*SUMMED, "energy_min_ev", "energy_max_ev"],
    ),
    Index(
        "file_sample_hpx_idx",
        "hpx",
        text(SAMPLE_SLOT),
        "time_begin",
        postgresql_where=text(f"{IN_SAMPLE} and hpx is not null"),
        postgresql_include=["facility_id", *SUMMED, "ra_deg", "dec_deg"],
    ),
    Index(
        "file_attributes_idx",
        "attributes",
        postgresql_using="gin",
        postgresql_ops={"attributes": "jsonb_path_ops"},
    ),
)

file_history = Table(
    "file_history",
    metadata,
    # The number that the version had in `file`. Apart from the living, so that the past costs the present nothing.
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    *_version_columns(),
    Column("removed_in", BigInteger, nullable=False),
    *_version_checks(),
    CheckConstraint("removed_in > added_in", name="life"),
    Index("file_history_storage_id_path_idx", "storage_id", "path"),
    Index("file_history_facility_id_time_begin_id_idx", "facility_id", "time_begin", "id"),
    Index("file_history_facility_id_added_in_idx", "facility_id", "added_in"),
    Index("file_history_facility_id_removed_in_idx", "facility_id", "removed_in"),
)

file_version = Table(
    "file_version",
    MetaData(),  # a view, which migrations make by hand: living and ended versions together
    Column("id", BigInteger),
    *_version_columns(),
    Column("removed_in", BigInteger),
)

# --- roll-ups -------------------------------------------------------------------------------------------------------


def _sums(*, has_checksum: bool = True) -> list[Column[Any]]:
    """How many files, their bytes, and the sums of their fingerprints, which need more than 64 bits."""
    sums = [Column("files", BigInteger, nullable=False), Column("bytes", Numeric, nullable=False)]
    if has_checksum:
        sums += [
            Column("fingerprint_high", Numeric, nullable=False),
            Column("fingerprint_low", Numeric, nullable=False),
        ]
    return sums


stratum = Table(
    "stratum",
    metadata,
    # Files that are alike in all that they can be counted by: a few thousand, however many files there are. A row here
    # is never deleted, and says how many living files there are of its kind.
    Column("id", Integer, Identity(), primary_key=True),
    # Digest of the values below, which together may be longer than an index takes.
    Column("key", Text, Computed(f"stratum_key({', '.join(STRATUM_COLUMNS)})", persisted=True), unique=True),
    Column("facility_id", SmallInteger, nullable=False),
    Column("storage_id", SmallInteger, nullable=False),
    Column("cluster_id", Integer),
    Column("detector_id", Integer),
    Column("channel_id", Integer),
    Column("level", Text),
    Column("kind", Text),
    Column("format", Text),
    Column("object", Text),
    Column("processing", Text),
    Column("quality", Text),
    Column("conditions", Text),
    Column("is_simulation", Boolean),
    *_sums(),
    Index("stratum_facility_id_idx", "facility_id"),
)

stratum_day = Table(
    "stratum_day",
    metadata,
    Column("facility_id", SmallInteger, primary_key=True, autoincrement=False),
    # Days since 1970, UTC, on which files begin; `NO_DAY` for those without a time.
    Column("day", Integer, primary_key=True, autoincrement=False),
    Column("stratum_id", Integer, primary_key=True, autoincrement=False),
    *_sums(),
    Index("stratum_day_stratum_id_day_idx", "stratum_id", "day"),
)

facet_month = Table(
    "facet_month",
    metadata,
    # The most asked sums ready made: by one field alone ('' counts all), facility and month.
    Column("field", Text, primary_key=True),
    # Months since year 0, in which files begin; `ALL_MONTHS` for the whole life, with those without a time.
    Column("month", Integer, primary_key=True, autoincrement=False),
    Column("facility_id", SmallInteger, primary_key=True, autoincrement=False),
    Column("value", Text, primary_key=True),
    *_sums(),
    # The last one of the facility that changed a file of the month; of the field '', which is asked for it.
    Column("revision", BigInteger, nullable=False),
)

sky_day = Table(
    "sky_day",
    metadata,
    # Of the files that have a position; `ALL_DAYS` for the whole life, with those without a time.
    Column("day", Integer, primary_key=True, autoincrement=False),
    Column("stratum_id", Integer, primary_key=True, autoincrement=False),
    # HEALPix cell of order `SKY_ORDER`, nested scheme.
    Column("cell", Integer, primary_key=True, autoincrement=False),
    *_sums(has_checksum=False),
)

NO_DAY, ALL_DAYS = -(2**31), -(2**31) + 1
"""Days that are none: files without a time; the whole life."""

ALL_MONTHS, NO_MONTH = -1, -2
"""Months that are none: the whole life of a facility; files without a time."""

SKY_ORDER = 6
"""HEALPix order of the kept sky densities: 49,152 cells of some 0.9 degrees."""

replica = Table(
    "replica",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    # By content, not by file: a replica stays one of the same bytes whatever happens to the catalogued file.
    Column("sha256", LargeBinary, nullable=False, index=True),
    Column("storage_id", ForeignKey("storage.id"), nullable=False),
    Column("path", Text(collation="C"), nullable=False),
    UniqueConstraint("storage_id", "path"),
)

# --- failures -------------------------------------------------------------------------------------------------------

dead_letter = Table(
    "dead_letter",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    # Digest of (facility, storage, path, stage), or of the line where no path can be read: a failure that is repeated
    # is the same letter. A digest, because the path of a bad line may be longer than an index takes.
    Column("key", LargeBinary, nullable=False, unique=True),
    Column("facility_id", ForeignKey("facility.id")),
    # What the line said, known or not.
    Column("storage", Text),
    Column("path", Text(collation="C")),
    Column("stage", Text, nullable=False),
    Column("field", Text),
    Column("reason", Text, nullable=False),
    Column("line", Text),
    Column("tries", Integer, nullable=False, server_default=text("1")),
    Column("first_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("last_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    CheckConstraint("stage in ('extraction', 'ingest')", name="stage"),
    Index("dead_letter_facility_id_id_idx", "facility_id", "id"),
)

# --- questions and exports ------------------------------------------------------------------------------------------

query = Table(
    "query",
    metadata,
    Column("id", Text, primary_key=True),
    Column("canonical", Text, nullable=False),
    # MD5 names a question, SHA-256 guards it: two texts with one MD5 can be made on purpose.
    Column("canonical_sha256", LargeBinary, nullable=False),
    _now(),
)

alert_list = Table(
    "alert_list",
    metadata,
    # SHA-256 of the list's canonical form: equal lists are one row, and a question that names one is never changed.
    Column("id", Text, primary_key=True),
    # Objects with time, and perhaps ra_deg and dec_deg, in order; held as they are asked for: whole.
    Column("alerts", JSONB, nullable=False),
    _now(),
)

export = Table(
    "export",
    metadata,
    Column("id", Text, primary_key=True),
    Column("query_id", ForeignKey("query.id"), nullable=False),
    # Facility name -> revision: with the question this says for ever which files belong to the export.
    Column("revisions", JSONB, nullable=False),
    Column("answer_checksum", Text, nullable=False),
    Column("state", Text, nullable=False, server_default=text("'INITIALIZED'")),
    Column("files_total", BigInteger, nullable=False),
    Column("bytes_total", BigInteger, nullable=False),
    Column("files_done", BigInteger, nullable=False, server_default=text("0")),
    Column("bytes_done", BigInteger, nullable=False, server_default=text("0")),
    Column("files_failed", BigInteger, nullable=False, server_default=text("0")),
    Column("manifest_sha256", Text),
    Column("error", Text),
    _now(),
    Column("started_at", DateTime(timezone=True)),
    Column("completed_at", DateTime(timezone=True)),
    Column("last_used_at", DateTime(timezone=True)),
    UniqueConstraint("query_id", "answer_checksum"),
)

export_transition = Table(
    "export_transition",
    metadata,
    # The life cycle as data; a trigger refuses every change of `export.state` that is not a row here.
    Column("from_state", Text, primary_key=True),
    Column("to_state", Text, primary_key=True),
)

export_file = Table(
    "export_file",
    metadata,
    # One row per file that staging has dealt with; a file without a row is still to do.
    Column("export_id", ForeignKey("export.id", ondelete="CASCADE"), primary_key=True),
    # Of a version, living or ended; no foreign key, because versions move from `file` to `file_history`.
    Column("file_id", BigInteger, primary_key=True, autoincrement=False),
    # The manifest is in the order of the bytes, whatever the database's own collation.
    Column("path", Text(collation="C"), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("sha256", LargeBinary),
    # Why the file is missing from the export; null when it is there.
    Column("reason", Text),
    Index("export_file_export_id_path_idx", "export_id", "path"),
)

stored_object = Table(
    "stored_object",
    metadata,
    # One verified content in the buffer's object store, however many exports hold it.
    Column("sha256", LargeBinary, primary_key=True),
    Column("size_bytes", BigInteger, nullable=False),
    Column("crc32", BigInteger, nullable=False),
    Column("md5", LargeBinary, nullable=False),
    Column("stored_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
)

# --- tokens and changes ---------------------------------------------------------------------------------------------

token = Table(
    "token",
    metadata,
    Column("id", Text, primary_key=True),
    Column("secret_sha256", LargeBinary, nullable=False),
    Column("role", Text, nullable=False),
    # What a publisher may write for; an admin's token has none and may write everything.
    Column("facilities", ARRAY(Text), nullable=False),
    Column("note", Text),
    _now(),
    Column("revoked_at", DateTime(timezone=True)),
    CheckConstraint("role in ('publisher', 'admin')", name="role"),
)

change = Table(
    "change",
    metadata,
    # What moves a facility takes its number under a lock that it holds until it commits: whoever sees a number sees
    # all smaller ones, and the numbers put the revisions of all facilities in one order.
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("kind", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("detail", JSONB, nullable=False),
    # Which facility has moved to which revision, for changes of files.
    Column("facility_id", SmallInteger),
    Column("revision", BigInteger),
    Index("change_facility_id_id_idx", "facility_id", "id", postgresql_where=text("facility_id is not null")),
    Index("change_at_idx", "at", postgresql_where=text("facility_id is not null")),
)
