"""A data directory as a command finds it: its settings, and the instance that runs on it.

A command looks the instance up once and passes the answer on. Nothing here imports a bus, logging or a model:
`callstream calls` starts with little else.
"""

import contextlib
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from pipeline.bus.security import BusSecurity
from pipeline.errors import InputError, InstanceError
from pipeline.instance import DATABASE_FILE, InstanceInfo, find_instance, read_instance
from pipeline.settings import Settings
from schemas.calls import CallRef

if TYPE_CHECKING:
    from pipeline.client.exports import Document
    from pipeline.client.warehouse import Reader


class DataDirectory:
    """A directory whose instance is looked up when it is needed first, and not again."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @classmethod
    def owned(cls, settings: Settings, instance: InstanceInfo) -> "DataDirectory":
        """Return the directory of an instance in this process."""
        directory = cls(settings)
        directory.instance = instance
        return directory

    @cached_property
    def instance(self) -> InstanceInfo | None:
        """None if no instance runs on the directory. One that is starting is waited for: see `find_instance`."""
        return find_instance(self.settings.data)

    @property
    def bus_url(self) -> str:
        """The bus that the settings name, else the instance's. Raises InstanceError if there is neither."""
        if self.settings.bus is not None:
            return self.settings.bus
        if self.instance is None:
            raise InstanceError(f"nothing runs on {self.settings.data}: start it with `callstream up`")
        return self.instance.bus_url

    def security_of(self, bus_url: str) -> BusSecurity:
        """Return the login for a bus: the settings' for the one that they name, the owner's for the instance's own."""
        security = self.settings.bus_security() if bus_url == self.settings.bus else BusSecurity()
        if security.user is None and security.credentials is None:
            instance = read_instance(self.settings.data)
            if instance is not None and instance.owner_credentials is not None and instance.bus_url == bus_url:
                return msgspec.structs.replace(security, credentials=Path(instance.owner_credentials))
        return security

    def open_warehouse(self) -> "Reader":
        """Open the warehouse for SQL, through the instance if there is one."""
        from pipeline.client.warehouse import open_reader

        return open_reader(self.settings.data / DATABASE_FILE, self.instance)

    def completed_call(self, call: CallRef) -> "Document":
        """Return the document of a completed call. Raises InputError for any other."""
        with contextlib.closing(self.open_warehouse()) as reader:
            document = reader.show(call)
        if document["status"] != "completed":
            state = document["status"].replace("_", " ")
            raise InputError(f"the call {call.call_id} is {state}: it must be completed")
        return document


def read_settings(data: Path | None) -> Settings:
    """Return the settings of a command that logs nothing."""
    return Settings.load(overrides={"data": data})


def call_ref(tenant: str, call_id: str) -> CallRef:
    """Return the call that the arguments name. Raises InputError."""
    try:
        return CallRef.checked(tenant, call_id)
    except ValueError as error:
        raise InputError(str(error)) from error
