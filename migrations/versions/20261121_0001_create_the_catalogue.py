"""create the catalogue

Revision: 0001
Follows:
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "authority",
        sa.Column("id", sa.SmallInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("title", sa.Text(), nullable=True),
        sa.Column("contact", sa.Text(), nullable=True),
        sa.Column("licence", sa.Text(), nullable=True),
        sa.Column("terms", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("authority_pkey")),
        sa.UniqueConstraint("name", name=op.f("authority_name_key")),
    )
    op.create_table(
        "change",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("detail", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("change_pkey")),
    )
    op.create_table(
        "export_transition",
        sa.Column("from_state", sa.Text(), nullable=False),
        sa.Column("to_state", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("from_state", "to_state", name=op.f("export_transition_pkey")),
    )
    op.create_table(
        "query",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("canonical", sa.Text(), nullable=False),
        sa.Column("canonical_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("query_pkey")),
    )
    op.create_table(
        "stored_object",
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("crc32", sa.BigInteger(), nullable=False),
        sa.Column("md5", sa.LargeBinary(), nullable=False),
        sa.Column("stored_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("sha256", name=op.f("stored_object_pkey")),
    )
    op.create_table(
        "token",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("secret_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("facilities", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("role in ('publisher', 'admin')", name=op.f("token_role_check")),
        sa.PrimaryKeyConstraint("id", name=op.f("token_pkey")),
    )
    op.create_table(
        "export",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("query_id", sa.Text(), nullable=False),
        sa.Column("revisions", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("answer_checksum", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), server_default=sa.text("'INITIALIZED'"), nullable=False),
        sa.Column("files_total", sa.BigInteger(), nullable=False),
        sa.Column("bytes_total", sa.BigInteger(), nullable=False),
        sa.Column("files_done", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("bytes_done", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("files_failed", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("manifest_sha256", sa.Text(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("completed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["query_id"], ["query.id"], name=op.f("export_query_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("export_pkey")),
        sa.UniqueConstraint("query_id", "answer_checksum", name=op.f("export_query_id_answer_checksum_key")),
    )
    op.create_table(
        "facility",
        sa.Column("id", sa.SmallInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("title", sa.Text(), nullable=True),
        sa.Column("place", sa.Text(), nullable=True),
        sa.Column("latitude_deg", sa.Double(), nullable=True),
        sa.Column("longitude_deg", sa.Double(), nullable=True),
        sa.Column("altitude_m", sa.Double(), nullable=True),
        sa.Column("url", sa.Text(), nullable=True),
        sa.Column("authority_id", sa.SmallInteger(), nullable=True),
        sa.Column("revision", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("longest", sa.Interval(), server_default=sa.text("'0'"), nullable=False),
        sa.ForeignKeyConstraint(["authority_id"], ["authority.id"], name=op.f("facility_authority_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("facility_pkey")),
        sa.UniqueConstraint("name", name=op.f("facility_name_key")),
    )
    op.create_table(
        "attribute",
        sa.Column("id", sa.Integer(), sa.Identity(always=False), nullable=False),
        sa.Column("facility_id", sa.SmallInteger(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("unit", sa.Text(), nullable=True),
        sa.Column("meaning", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["facility_id"], ["facility.id"], name=op.f("attribute_facility_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("attribute_pkey")),
        sa.UniqueConstraint("facility_id", "name", name=op.f("attribute_facility_id_name_key")),
    )
    op.create_table(
        "cluster",
        sa.Column("id", sa.Integer(), sa.Identity(always=False), nullable=False),
        sa.Column("facility_id", sa.SmallInteger(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("title", sa.Text(), nullable=True),
        sa.Column("latitude_deg", sa.Double(), nullable=True),
        sa.Column("longitude_deg", sa.Double(), nullable=True),
        sa.Column("altitude_m", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(["facility_id"], ["facility.id"], name=op.f("cluster_facility_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("cluster_pkey")),
        sa.UniqueConstraint("facility_id", "name", name=op.f("cluster_facility_id_name_key")),
    )
    op.create_table(
        "storage",
        sa.Column("id", sa.SmallInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("root", sa.Text(), nullable=False),
        sa.Column("title", sa.Text(), nullable=True),
        sa.Column("facility_id", sa.SmallInteger(), nullable=True),
        sa.Column("enabled", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.CheckConstraint("kind in ('local')", name=op.f("storage_kind_check")),
        sa.ForeignKeyConstraint(["facility_id"], ["facility.id"], name=op.f("storage_facility_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("storage_pkey")),
        sa.UniqueConstraint("name", name=op.f("storage_name_key")),
    )
    op.create_table(
        "detector",
        sa.Column("id", sa.Integer(), sa.Identity(always=False), nullable=False),
        sa.Column("facility_id", sa.SmallInteger(), nullable=False),
        sa.Column("cluster_id", sa.Integer(), nullable=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("title", sa.Text(), nullable=True),
        sa.Column("kind", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["cluster_id"], ["cluster.id"], name=op.f("detector_cluster_id_fkey")),
        sa.ForeignKeyConstraint(["facility_id"], ["facility.id"], name=op.f("detector_facility_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("detector_pkey")),
        sa.UniqueConstraint("facility_id", "name", name=op.f("detector_facility_id_name_key")),
    )
    op.create_table(
        "replica",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column("storage_id", sa.SmallInteger(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["storage_id"], ["storage.id"], name=op.f("replica_storage_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("replica_pkey")),
        sa.UniqueConstraint("storage_id", "path", name=op.f("replica_storage_id_path_key")),
    )
    op.create_index(op.f("replica_sha256_idx"), "replica", ["sha256"], unique=False)
    op.create_table(
        "channel",
        sa.Column("id", sa.Integer(), sa.Identity(always=False), nullable=False),
        sa.Column("facility_id", sa.SmallInteger(), nullable=False),
        sa.Column("detector_id", sa.Integer(), nullable=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("title", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["detector_id"], ["detector.id"], name=op.f("channel_detector_id_fkey")),
        sa.ForeignKeyConstraint(["facility_id"], ["facility.id"], name=op.f("channel_facility_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("channel_pkey")),
        sa.UniqueConstraint("facility_id", "name", name=op.f("channel_facility_id_name_key")),
    )
    op.create_table(
        "file",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("facility_id", sa.SmallInteger(), nullable=False),
        sa.Column("storage_id", sa.SmallInteger(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.LargeBinary(), nullable=True),
        sa.Column("md5", sa.LargeBinary(), nullable=True),
        sa.Column("modified_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("format", sa.Text(), nullable=True),
        sa.Column("kind", sa.Text(), nullable=True),
        sa.Column("level", sa.Text(), nullable=True),
        sa.Column("cluster_id", sa.Integer(), nullable=True),
        sa.Column("detector_id", sa.Integer(), nullable=True),
        sa.Column("channel_id", sa.Integer(), nullable=True),
        sa.Column("time_begin", sa.DateTime(timezone=True), nullable=True),
        sa.Column("time_end", sa.DateTime(timezone=True), nullable=True),
        sa.Column("obs_id", sa.Text(), nullable=True),
        sa.Column("run", sa.BigInteger(), nullable=True),
        sa.Column("ra_deg", sa.Double(), nullable=True),
        sa.Column("dec_deg", sa.Double(), nullable=True),
        sa.Column("position_basis", sa.Text(), nullable=True),
        sa.Column("energy_min_ev", sa.Double(), nullable=True),
        sa.Column("energy_max_ev", sa.Double(), nullable=True),
        sa.Column("energy_basis", sa.Text(), nullable=True),
        sa.Column("object", sa.Text(), nullable=True),
        sa.Column("n_events", sa.BigInteger(), nullable=True),
        sa.Column("is_simulation", sa.Boolean(), nullable=True),
        sa.Column("processing", sa.Text(), nullable=True),
        sa.Column("quality", sa.Text(), nullable=True),
        sa.Column("conditions", sa.Text(), nullable=True),
        sa.Column("licence", sa.Text(), nullable=True),
        sa.Column("attributes", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("provenance", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("warnings", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("fingerprint_high", sa.BigInteger(), nullable=False),
        sa.Column("fingerprint_low", sa.BigInteger(), nullable=False),
        sa.Column("added_in", sa.BigInteger(), nullable=False),
        sa.Column("removed_in", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("removed_in > added_in", name=op.f("file_life_check")),
        sa.CheckConstraint("size_bytes >= 0", name=op.f("file_size_check")),
        sa.CheckConstraint("time_end >= time_begin", name=op.f("file_time_check")),
        sa.PrimaryKeyConstraint("id", name=op.f("file_pkey")),
    )
    op.create_index(
        "file_attributes_idx",
        "file",
        ["attributes"],
        unique=False,
        postgresql_using="gin",
        postgresql_ops={"attributes": "jsonb_path_ops"},
    )
    op.create_index(
        "file_dec_deg_ra_deg_idx",
        "file",
        ["dec_deg", "ra_deg"],
        unique=False,
        postgresql_where=sa.text("dec_deg is not null"),
    )
    op.create_index(
        "file_facility_id_run_idx",
        "file",
        ["facility_id", "run"],
        unique=False,
        postgresql_where=sa.text("run is not null"),
    )
    op.create_index("file_facility_id_time_begin_id_idx", "file", ["facility_id", "time_begin", "id"], unique=False)
    op.create_index("file_object_idx", "file", ["object"], unique=False, postgresql_where=sa.text("object is not null"))
    op.create_index("file_obs_id_idx", "file", ["obs_id"], unique=False, postgresql_where=sa.text("obs_id is not null"))
    op.create_index("file_sha256_idx", "file", ["sha256"], unique=False, postgresql_where=sa.text("sha256 is not null"))
    op.create_index(
        "file_storage_id_path_key",
        "file",
        ["storage_id", "path"],
        unique=True,
        postgresql_where=sa.text("removed_in is null"),
    )
    op.create_index("file_time_begin_id_idx", "file", ["time_begin", "id"], unique=False)
    op.create_table(
        "export_file",
        sa.Column("export_id", sa.Text(), nullable=False),
        sa.Column("file_id", sa.BigInteger(), nullable=False),
        sa.Column("path", sa.Text(collation="C"), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.LargeBinary(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["export_id"], ["export.id"], name=op.f("export_file_export_id_fkey"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["file_id"], ["file.id"], name=op.f("export_file_file_id_fkey")),
        sa.PrimaryKeyConstraint("export_id", "file_id", name=op.f("export_file_pkey")),
    )
    op.create_index("export_file_export_id_path_idx", "export_file", ["export_id", "path"])


def downgrade() -> None:
    op.drop_table("export_file")
    op.drop_index("file_time_begin_id_idx", table_name="file")
    op.drop_index("file_storage_id_path_key", table_name="file", postgresql_where=sa.text("removed_in is null"))
    op.drop_index("file_sha256_idx", table_name="file", postgresql_where=sa.text("sha256 is not null"))
    op.drop_index("file_obs_id_idx", table_name="file", postgresql_where=sa.text("obs_id is not null"))
    op.drop_index("file_object_idx", table_name="file", postgresql_where=sa.text("object is not null"))
    op.drop_index("file_facility_id_time_begin_id_idx", table_name="file")
    op.drop_index("file_facility_id_run_idx", table_name="file", postgresql_where=sa.text("run is not null"))
    op.drop_index("file_dec_deg_ra_deg_idx", table_name="file", postgresql_where=sa.text("dec_deg is not null"))
    op.drop_index(
        "file_attributes_idx",
        table_name="file",
        postgresql_using="gin",
        postgresql_ops={"attributes": "jsonb_path_ops"},
    )
    op.drop_table("file")
    op.drop_table("channel")
    op.drop_index(op.f("replica_sha256_idx"), table_name="replica")
    op.drop_table("replica")
    op.drop_table("detector")
    op.drop_table("storage")
    op.drop_table("cluster")
    op.drop_table("attribute")
    op.drop_table("facility")
    op.drop_table("export")
    op.drop_table("token")
    op.drop_table("stored_object")
    op.drop_table("query")
    op.drop_table("export_transition")
    op.drop_table("change")
    op.drop_table("authority")
