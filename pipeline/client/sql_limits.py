"""What one query of an analyst may take, and the messages that name the limit it exceeded."""

import msgspec

from pipeline.settings import SETTINGS, Settings


class SqlLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of one query."""

    time_s: float
    """From the command's request to the last row, the wait for others and the copy of the warehouse included."""
    memory_bytes: int
    """Of the process that runs it, above what that takes to start."""
    rows: int
    """Of the result."""
    temp_bytes: int
    """Of the files that sorts and joins without room in memory write."""
    readers: int = 4
    """Queries on one data directory at the same time."""

    @classmethod
    def of(cls, settings: Settings) -> "SqlLimits":
        return cls(
            time_s=settings.sql_time_s,
            memory_bytes=int(settings.sql_memory_gb * 1e9),
            rows=settings.sql_rows,
            temp_bytes=int(settings.sql_temp_gb * 1e9),
            readers=settings.sql_readers,
        )

    def time_is_up(self) -> str:
        return f"the query was ended after {self.time_s:g} s{_raised_by('sql_time_s')}"

    def readers_are_busy(self) -> str:
        queries = "another query" if self.readers == 1 else f"{self.readers} other queries"
        variables = f"{SETTINGS['sql_time_s'].variable} or {SETTINGS['sql_readers'].variable}"
        return f"the query waited {self.time_s:g} s for the end of {queries}: ask again later, or raise {variables}"

    def memory_is_used_up(self) -> str:
        return f"the query needs more than {self.memory_bytes / 1e9:g} GB of memory{_raised_by('sql_memory_gb')}"

    def temp_is_used_up(self) -> str:
        return f"the query needs more than {self.temp_bytes / 1e9:g} GB of files{_raised_by('sql_temp_gb')}"

    def too_many_rows(self) -> str:
        return f"the result has more than {self.rows:,} rows{_raised_by('sql_rows')}"


def _raised_by(setting: str) -> str:
    return f": select less, or raise {SETTINGS[setting].variable}"
