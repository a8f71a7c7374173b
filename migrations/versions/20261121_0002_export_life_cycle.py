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

FUNCTION = """
create function export_keep_life_cycle() returns trigger language plpgsql as $$
begin
    if tg_op = 'INSERT' then
        if new.state <> 'INITIALIZED' then
            raise exception 'an export begins INITIALIZED, not %', new.state using errcode = 'check_violation';
        end if;
        insert into change (kind, subject, detail)
        values ('export', new.id, jsonb_build_object('query_id', new.query_id, 'to', new.state));
    elsif new.state <> old.state then
        if not exists (
            select from export_transition where from_state = old.state and to_state = new.state
        ) then
            raise exception 'an export cannot go from % to %', old.state, new.state
                using errcode = 'check_violation';
        end if;
        insert into change (kind, subject, detail)
        values ('export', new.id,
                jsonb_build_object('query_id', new.query_id, 'from', old.state, 'to', new.state));
    end if;
    return new;
end
$$
"""


def upgrade() -> None:
    table = sa.table("export_transition", sa.column("from_state"), sa.column("to_state"))
    op.bulk_insert(table, [{"from_state": a, "to_state": b} for a, b in TRANSITIONS])
    op.execute(FUNCTION)
    op.execute(
        "create trigger export_life_cycle before insert or update of state on export "
        "for each row execute function export_keep_life_cycle()"
    )


def downgrade() -> None:
    op.execute("drop trigger export_life_cycle on export")
    op.execute("drop function export_keep_life_cycle()")
    op.execute("delete from export_transition")
