"""Forget the sums by pairs of fields: counts under a choice are added up from strata, which is as quick.

Revision: 0007
Follows: 0006
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

FIELDS = (
    *(f"('{name}', stratum.{name}_id::text)" for name in ("storage", "cluster", "detector", "channel")),
    *(
        f"('{name}', stratum.{name}::text)"
        for name in ("level", "kind", "format", "object", "processing", "quality", "conditions", "is_simulation")
    ),
)


def upgrade() -> None:
    op.drop_table("facet_pair")
    # Without a default the ingest of an older version, which does not say when a month changed, fails.
    op.alter_column("facet_month", "revision", server_default=None)


def downgrade() -> None:
    op.alter_column("facet_month", "revision", server_default=sa.text("0"))
    op.create_table(
        "facet_pair",
        sa.Column("field", sa.Text(), nullable=False),
        sa.Column("other_field", sa.Text(), nullable=False),
        sa.Column("facility_id", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("other_value", sa.Text(), nullable=False),
        sa.Column("files", sa.BigInteger(), nullable=False),
        sa.Column("bytes", sa.Numeric(), nullable=False),
        sa.PrimaryKeyConstraint(
            "field", "other_field", "facility_id", "value", "other_value", name=op.f("facet_pair_pkey")
        ),
    )
    op.execute(
        "alter table facet_pair set (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05,"
        " autovacuum_vacuum_threshold = 500)"
    )
    op.execute(
        f"""
        insert into facet_pair
        select one.field, other.field, stratum.facility_id, one.value, other.value, sum(files), sum(bytes) from stratum
        cross join lateral (values {", ".join(FIELDS)}) as one (field, value)
        cross join lateral (values {", ".join(FIELDS)}) as other (field, value)
        where files <> 0 and one.value is not null and other.value is not null and one.field <> other.field
        group by 1, 2, 3, 4, 5
        """
    )
