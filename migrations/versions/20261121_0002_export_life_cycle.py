"""Enforce the life cycle of exports in the database; write each transition as a change.

Revision: 0002
Follows: 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TRANSITIONS = [
    ("INITIALIZED", "WRITING"),
    ("INITIALIZED", "CANCELLED"),
    ("INITIALIZED", "ERROR"),
    ("WRITING", "COMPLETED"),
    ("WRITING", "CANCELLED"),
    ("WRITING", "ERROR"),
    ("COMPLETED", "EXPIRED"),
    ("EXPIRED", "DELETED"),
    # What ended can be asked for again, under the same id.
    ("EXPIRED", "INITIALIZED"),
    ("DELETED", "INITIALIZED"),
    ("CANCELLED", "INITIALIZED"),
    ("ERROR", "INITIALIZED"),
]

CHECK = """
create function export_check_life_cycle() returns trigger language plpgsql as $$
begin
    if tg_op = 'INSERT' and new.state <> 'INITIALIZED' then
        raise exception 'an export begins INITIALIZED, not %', new.state using errcode = 'check_violation';
    elsif tg_op = 'UPDATE' and new.state <> old.state and not exists (
        select from export_transition where from_state = old.state and to_state = new.state
    ) then
        raise exception 'an export cannot go from % to %', old.state, new.state using errcode = 'check_violation';
    end if;
    return new;
end
$$
"""

# After the row, not before: an insert that meets a conflict and does nothing is no change.
RECORD = """
create function export_record_life_cycle() returns trigger language plpgsql as $$
begin
    if tg_op = 'INSERT' then
        insert into change (kind, subject, detail)
        values ('export', new.id, jsonb_build_object('query_id', new.query_id, 'to', new.state));
    elsif new.state <> old.state then
        insert into change (kind, subject, detail)
        values ('export', new.id,
                jsonb_build_object('query_id', new.query_id, 'from', old.state, 'to', new.state));
    end if;
    return null;
end
$$
"""


def upgrade() -> None:
    table = sa.table("export_transition", sa.column("from_state"), sa.column("to_state"))
    op.bulk_insert(table, [{"from_state": a, "to_state": b} for a, b in TRANSITIONS])
    op.execute(CHECK)
    op.execute(RECORD)
    op.execute(
        "create trigger export_life_cycle_is_kept before insert or update of state on export "
        "for each row execute function export_check_life_cycle()"
    )
    op.execute(
        "create trigger export_life_cycle_is_recorded after insert or update of state on export "
        "for each row execute function export_record_life_cycle()"
    )


def downgrade() -> None:
    op.execute("drop trigger export_life_cycle_is_recorded on export")
    op.execute("drop trigger export_life_cycle_is_kept on export")
    op.execute("drop function export_record_life_cycle()")
    op.execute("drop function export_check_life_cycle()")
    op.execute("delete from export_transition")
