"""The address of a question and of a cited answer: a page for people, JSON for programs, at the same place.

``/q/<id>`` is the answer as of now, ``/q/<id>@<revision>`` the one as of a revision of the catalogue. Which form is
sent, the header Accept decides; the ending ``.json`` asks for JSON whatever the header says.
"""

import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aggregator.citation import cite, cite_url, query_url
from aggregator.controller import CoreController, QuickResponse
from metadata_db.errors import BadInputError, NotFoundError
from metadata_db.vocabulary import Vocabulary, VocabularyStore

HTML, JSON = "text/html", "application/json"

_NAME = re.compile(r"(?P<id>[^@]+?)(?:@(?P<revision>[0-9]{1,19}))?(?P<json>\.json)?", re.ASCII)


def routes(*, controller: CoreController, vocabulary: VocabularyStore, page: Path) -> list[BaseRoute]:
    """Return the routes below ``/q/``; `page` is the page for people, which asks for itself what it shows."""

    async def land(request: Request) -> Response:
        match = _NAME.fullmatch(request.path_params["name"])
        if match is None:
            raise NotFoundError("query", request.path_params["name"])
        query_id, revision = match["id"], None if match["revision"] is None else int(match["revision"])
        address = query_url(query_id) if revision is None else cite_url(query_id, revision)
        links = [f'<{address}.json>; rel="alternate"; type="{JSON}"', f'<{address}>; rel="alternate"; type="{HTML}"']
        if match["json"] is None and preferred(request.headers.get("accept", "*/*"), (HTML, JSON)) == HTML:
            return FileResponse(page, headers={"link": links[0]})
        response = await controller.count_exactly(await _reopen(controller, query_id, revision))
        body = describe_answer(response, await vocabulary.get(), await controller.time_of(response.answer))
        cited = f'<{body["links"]["cite"]}>; rel="cite-as"'
        return Response(orjson.dumps(body), media_type=JSON, headers={"link": f"{links[1]}, {cited}"})

    return [Route("/q/{name}", land, middleware=[Middleware(VaryByAccept)])]


class VaryByAccept:
    """Tells caches that another Accept may have another answer: also where there is no such question."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand the request on, and add the headers to its answer."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["vary"], headers["cache-control"] = "Accept", "no-cache"
            await send(message)

        await self._app(scope, receive, send_with_headers)


async def _reopen(controller: CoreController, query_id: str, revision: int | None) -> QuickResponse:
    """Answer a question; a revision that is not there yet is an address that leads nowhere, no bad input."""
    try:
        return await controller.reopen(query_id, as_of=revision)
    except BadInputError as error:
        if error.field != "asOf.revision":
            raise
        raise NotFoundError("revision of the catalogue", str(revision)) from error


def describe_answer(response: QuickResponse, vocabulary: Vocabulary, at: datetime | None) -> dict[str, Any]:
    """Return what a program is told of an answer that was counted exactly, and whose revision was made `at`."""
    answer, summary = response.answer, response.summary
    address = cite_url(answer.query.query_id, answer.revision)
    return {
        "queryId": answer.query.query_id,
        "canonical": answer.query.as_mapping(),
        "revision": answer.revision,
        "revisions": dict(answer.revisions),
        "at": at,
        "count": summary.count,
        "bytes": summary.bytes,
        "checksum": summary.checksum,
        "citation": cite(response, vocabulary, at),
        "links": {
            "cite": address,
            "json": f"{address}.json",
            "now": query_url(answer.query.query_id),
            "graphql": "/graphql",
        },
    }


# --- which form is wanted ---------------------------------------------------------------------------------------------


def preferred(accept: str, offers: Sequence[str]) -> str:
    """Return the media type that a header Accept likes best, the first of equals; the first if it likes none.

    Notes
    -----
    RFC 9110, section 12.5.1: of the ranges that a type falls in, the most specific one tells its weight.
    """
    ranges = [found for found in map(_media_range, accept.split(",")) if found is not None]
    return max(offers, key=lambda offer: _weight(offer, ranges))


def _media_range(text: str) -> tuple[str, float] | None:
    name, *parameters = (part.strip().lower() for part in text.split(";"))
    weights = [value.strip() for key, _, value in (item.partition("=") for item in parameters) if key.strip() == "q"]
    if not weights:
        return name, 1.0
    return (name, float(weights[0])) if re.fullmatch(r"[01](\.[0-9]{0,3})?", weights[0], re.ASCII) else None


def _weight(offer: str, ranges: Sequence[tuple[str, float]]) -> float:
    for name in (offer, f"{offer.partition('/')[0]}/*", "*/*"):
        weights = [weight for found, weight in ranges if found == name]
        if weights:
            return max(weights)
    return 0.0
