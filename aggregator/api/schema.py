"""The schema."""

import strawberry

from aggregator.api.resolvers import Mutation, Query
from aggregator.api.scalars import CONFIG
from aggregator.api.subscriptions import Subscription


def create_schema() -> strawberry.Schema:
    """Return the schema of the service."""
    return strawberry.Schema(query=Query, mutation=Mutation, subscription=Subscription, config=CONFIG)
