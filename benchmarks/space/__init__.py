"""A small store is offered more speech than it holds."""
