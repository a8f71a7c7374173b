"""Prints the schema: ``python -m aggregator.api.print_schema > aggregator/api/schema.graphql``."""

import sys

from aggregator.api.schema import create_schema

if __name__ == "__main__":
    sys.stdout.write(create_schema().as_str() + "\n")
