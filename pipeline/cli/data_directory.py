"""What a command that only reads the warehouse needs: its settings, SQL over the data directory, the call it names.

Nothing here imports a bus, logging or a stage's model: `callstream calls` has little else to do than to start.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import InputError
from pipeline.instance import DATABASE_FILE, find_instance
from pipeline.settings import Settings
from schemas.calls import CallRef

if TYPE_CHECKING:
    from pipeline.client.warehouse import Reader


def read_settings(data: Path | None) -> Settings:
    """Return the settings of a command that logs nothing."""
    return Settings.load(overrides={"data": data})


def open_warehouse(settings: Settings) -> "Reader":
    """Open the data directory for SQL, through the running instance where there is one."""
    from pipeline.client.warehouse import open_reader

    return open_reader(settings.data / DATABASE_FILE, find_instance(settings.data))


def call_ref(tenant: str, call_id: str) -> CallRef:
    """Return the call that a person named. Raises InputError."""
    try:
        return CallRef.checked(tenant, call_id)
    except ValueError as error:
        raise InputError(str(error)) from error
