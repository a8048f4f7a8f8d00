"""sprint: parallel reasoning (SPRINT, APR) replicated in the open."""

__version__ = "0.1.0"
