"""Index the sky by cell and time, and a sample of one file in 16 instead of 256.

Revision: 0008
Follows: 0007

Indexes only, built beside the reading and writing that go on. It may be killed at any point and run again.
"""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

INDEXES = {
    "file_hpx_idx": "on file (((hpx >> 38)::int4), time_begin, hpx) where hpx is not null",
    "file_sample_idx": (
        "on file (facility_id, (fingerprint_low >> 4 & 255), time_begin) include (time_over, stratum_id, size_bytes,"
        " fingerprint_high, fingerprint_low, energy_min_ev, energy_max_ev) where fingerprint_low & 15 = 0"
    ),
    "file_sample_hpx_idx": (
        "on file (hpx, (fingerprint_low >> 4 & 255), time_begin) include (facility_id, time_over, stratum_id,"
        " size_bytes, fingerprint_high, fingerprint_low, ra_deg, dec_deg)"
        " where fingerprint_low & 15 = 0 and hpx is not null"
    ),
}
OLD_INDEXES = {
    "file_hpx_idx": "on file (hpx) where hpx is not null",
    "file_sample_idx": (
        "on file (facility_id, (fingerprint_low >> 8 & 15), time_begin) where fingerprint_low & 255 = 0"
    ),
}


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for name, definition in INDEXES.items():
            op.execute(f"drop index concurrently if exists {name}_0007")  # left by a build that was ended
            op.execute(f"create index concurrently {name}_0007 {definition}")
            op.execute(f"drop index concurrently if exists {name}")
            op.execute(f"alter index {name}_0007 rename to {name}")
        # The planner learns what the expressions are like.
        op.execute("analyze file")


def downgrade() -> None:
    for name in INDEXES:
        op.execute(f"drop index {name}")
    for name, definition in OLD_INDEXES.items():
        op.execute(f"create index {name} {definition}")
