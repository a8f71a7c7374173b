"""Keep failures, relations of files, how and when they were read; order paths by bytes; allow remote storages.

Revision: 0003
Follows: 0002
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

PATHS = ("file", "replica")


def upgrade() -> None:
    # Changes no row; Postgres builds the indexes on the path anew.
    for table in PATHS:
        op.alter_column(table, "path", existing_type=sa.Text(), type_=sa.Text(collation="C"), existing_nullable=False)
    op.add_column("file", sa.Column("relations", postgresql.JSONB(astext_type=sa.Text()), nullable=True))
    op.add_column("file", sa.Column("reading", sa.LargeBinary(), nullable=True))
    op.add_column(
        "file",
        sa.Column("checked_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
    )
    op.create_table(
        "dead_letter",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("key", sa.LargeBinary(), nullable=False),
        sa.Column("facility_id", sa.SmallInteger(), nullable=True),
        sa.Column("storage", sa.Text(), nullable=True),
        sa.Column("path", sa.Text(collation="C"), nullable=True),
        sa.Column("stage", sa.Text(), nullable=False),
        sa.Column("field", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("line", sa.Text(), nullable=True),
        sa.Column("tries", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("first_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("last_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("stage in ('extraction', 'ingest')", name=op.f("dead_letter_stage_check")),
        sa.ForeignKeyConstraint(["facility_id"], ["facility.id"], name=op.f("dead_letter_facility_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("dead_letter_pkey")),
        sa.UniqueConstraint("key", name=op.f("dead_letter_key_key")),
    )
    op.create_index("dead_letter_facility_id_id_idx", "dead_letter", ["facility_id", "id"], unique=False)
    op.drop_constraint(op.f("storage_kind_check"), "storage", type_="check")
    op.create_check_constraint(op.f("storage_kind_check"), "storage", "kind in ('local', 'remote')")


def downgrade() -> None:
    op.drop_constraint(op.f("storage_kind_check"), "storage", type_="check")
    # Remote storages stay, or their files would belong to none; only new ones are refused.
    op.create_check_constraint(op.f("storage_kind_check"), "storage", "kind in ('local')", postgresql_not_valid=True)
    op.drop_table("dead_letter")
    for column in ("checked_at", "reading", "relations"):
        op.drop_column("file", column)
    for table in PATHS:
        op.alter_column(table, "path", existing_type=sa.Text(collation="C"), type_=sa.Text(), existing_nullable=False)
