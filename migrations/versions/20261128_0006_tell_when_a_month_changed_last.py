"""Tell when the files of a month changed last, so that processes know whether what they keep of it is still so.

Revision: 0006
Follows: 0005
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Ingests lock the row of their facility before they touch a roll-up: none is between its two steps.
    op.execute("lock table facility in exclusive mode")
    op.add_column("facet_month", sa.Column("revision", sa.BigInteger(), nullable=False, server_default=sa.text("0")))
    # Surely not too early.
    op.execute(
        "update facet_month set revision = facility.revision from facility"
        " where facility.id = facet_month.facility_id and facet_month.field = ''"
    )


def downgrade() -> None:
    op.drop_column("facet_month", "revision")
