"""The root fields that go on: each event is the state of what was subscribed to, never a difference.

So a client that was cut off, or that reads slowly, has missed nothing once the next event arrives.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated

import strawberry

from aggregator.api.context import Info
from aggregator.api.scalars import BigInt
from aggregator.api.types import ExportProgress, ExportType, FacilityRevision
from aggregator.staging.ledger import Export, ExportState
from metadata_db.errors import NotFoundError

FINAL = frozenset(ExportState) - {ExportState.INITIALIZED, ExportState.WRITING}
"""States in which nothing is written any more."""


@strawberry.type(description="What goes on: over WebSockets at `/graphql`, or as events at `/graphql/stream`.")
class Subscription:
    """Root of what goes on."""

    @strawberry.subscription(
        description="An export while it is made: at once, and whenever its state, files or bytes have changed, at most "
        "twice a second. It ends with the state in which nothing is written any more."
    )
    async def export_progress(
        self, info: Info, id: Annotated[strawberry.ID, strawberry.argument(description="Id of the export.")]
    ) -> AsyncGenerator[ExportType, None]:
        """Follow an export to its end."""
        context = info.context

        async def look() -> tuple[Export, ExportProgress]:
            found = await context.ledger.find(id)
            if found is None:
                raise NotFoundError("export", id)
            return found, await ExportProgress.find(context.controller, found)

        async with aclosing(context.live.follow(("export", id), look)) as states:
            async for export, progress in states:
                yield ExportType.of(export, progress)
                if export.state in FINAL:
                    return

    @strawberry.subscription(
        description="Revisions of facilities: at once, and whenever files of one of them came, changed or went, at "
        "most twice a second. It does not end by itself."
    )
    async def revisions(
        self,
        info: Info,
        facility: Annotated[
            list[str] | None, strawberry.argument(description="Names of facilities; all when left out.")
        ] = None,
    ) -> AsyncGenerator[list[FacilityRevision], None]:
        """Follow the catalogue."""
        vocabulary = info.context.vocabulary
        if facility is not None:
            (await vocabulary.get()).require("facility", "facility", facility)

        async def look() -> dict[str, int]:
            return dict((await vocabulary.get()).revisions)

        told: dict[str, int] | None = None
        async with aclosing(info.context.live.follow("revisions", look)) as states:
            async for found in states:
                wanted = {name: number for name, number in found.items() if facility is None or name in facility}
                if wanted != told:
                    told = wanted
                    yield [FacilityRevision(facility=name, revision=BigInt(wanted[name])) for name in sorted(wanted)]
