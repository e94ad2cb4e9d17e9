"""How a test's own bus client logs in to a running instance."""

from pathlib import Path

from pipeline.bus.security import BusSecurity
from tests.support.processes.deployment import Deployment


def bus_login(running: Deployment) -> tuple[str, BusSecurity]:
    """Return the arguments of `open_bus` for the owner of the data directory."""
    status = running.status()
    return status["bus_url"], BusSecurity(credentials=Path(status["owner_credentials"]))
