"""The settings, and the only place that reads the environment.

A setting is a field of `Settings`. Its type, bounds, description and expected value stand beside it, once. The
environment variable (`CALLSTREAM_` and the name in capitals), the key in the TOML file, the error message and the
tables in `infra/README.md` follow from them. Other code takes values.
"""

import os
import re
import tomllib
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from pipeline.bus.security import BusSecurity, SaslMechanism
from pipeline.errors import ConfigurationError
from pipeline.secret import Secret

CONFIG_VARIABLE = "CALLSTREAM_CONFIG"
CONFIG_FILE = "callstream.toml"
DEFAULT_EMBEDDING_MODEL: Final = "all-MiniLM-L6-v2"
_PREFIX = "CALLSTREAM_"


def _about(description: str, expects: str, *, default: str | None = None, none: str | None = None) -> Meta:
    """Describe a setting: what it is, what its error expects, and the words for a computed default and for None."""
    return Meta(description=description, extra={"expects": expects, "default": default, "none": none})


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings of one process. Made by `load`; tests build it directly, and only `data` is required."""

    data: Annotated[
        Path,
        _about(
            "Directory for everything that is kept: the bus's store, the DuckDB file, models assembled from packages",
            "a directory",
            default="$XDG_DATA_HOME/callstream, else ~/.local/share/callstream",
        ),
    ]
    bus: Annotated[
        Annotated[str, Meta(pattern=r"^(nats|tls|kafka)://[^\s/@]+$")] | None,
        _about(
            "Address of the bus. `embedded` starts a nats-server; tls:// is NATS with TLS required",
            "embedded, nats://HOST:PORT, tls://HOST:PORT or kafka://HOST:PORT[,HOST:PORT]",
            none="embedded",
        ),
    ] = None
    bus_user: Annotated[
        Annotated[str, Meta(min_length=1)] | None,
        _about("User name for the bus; on Kafka it turns SASL on", "a user name", none="none"),
    ] = None
    bus_password: Annotated[
        Annotated[Secret, Meta()] | None,
        _about("Password of that user; never shown or logged", "a password", none="none"),
    ] = None
    bus_sasl: Annotated[
        SaslMechanism,
        _about("SASL mechanism on Kafka", "SCRAM-SHA-512, SCRAM-SHA-256 or PLAIN"),
    ] = "SCRAM-SHA-512"
    bus_credentials: Annotated[
        Annotated[Path, Meta()] | None,
        _about("NATS credentials file (.creds) or NKey seed, instead of user name and password", "a file", none="none"),
    ] = None
    bus_tls: Annotated[
        Literal["off", "on"],
        _about("Require TLS to the bus; tls:// always does", "off or on"),
    ] = "off"
    bus_ca_file: Annotated[
        Annotated[Path, Meta()] | None,
        _about("Certificate authorities that may sign the bus's certificate, as PEM", "a file", none="the system's"),
    ] = None
    bus_cert_file: Annotated[
        Annotated[Path, Meta()] | None,
        _about("Client certificate for the bus, as PEM", "a file", none="none"),
    ] = None
    bus_key_file: Annotated[
        Annotated[Path, Meta()] | None,
        _about("Key of the client certificate, as PEM, if it is not in the same file", "a file", none="none"),
    ] = None
    bus_auth: Annotated[
        Literal["on", "off"],
        _about(
            "Whether the embedded bus asks for a login; `off` lets every user of the machine read and write all calls, "
            "and will be removed in the next release",
            "on or off",
        ),
    ] = "on"
    live_url: Annotated[
        Annotated[str, Meta(pattern=r"^(nats|tls)://[^\s/@]+$")] | None,
        _about(
            "NATS server for live updates; with Kafka there are none unless this is set",
            "nats://HOST:PORT or tls://HOST:PORT",
            none="the bus's",
        ),
    ] = None
    live_user: Annotated[
        Annotated[str, Meta(min_length=1)] | None,
        _about("User name for the server of CALLSTREAM_LIVE_URL", "a user name", none="none"),
    ] = None
    live_password: Annotated[
        Annotated[Secret, Meta()] | None,
        _about("Password of that user; credentials and TLS files are those of the bus", "a password", none="none"),
    ] = None
    partitions: Annotated[
        int,
        Meta(ge=1, le=1024),
        _about("Partitions of each topic, fixed when the topic is created", "a whole number from 1 to 1024"),
    ] = 8
    replication: Annotated[
        int,
        Meta(ge=1, le=100),
        _about("Replicas of each topic that callstream creates on Kafka", "a whole number from 1 to 100"),
    ] = 1
    sync: Annotated[
        Literal["1s", "always"],
        _about(
            "When the embedded bus flushes records to disk: every second, or each record before it is acknowledged",
            "1s or always",
        ),
    ] = "always"
    retention_days: Annotated[
        float, Meta(gt=0, le=1e6), _about("How long the bus keeps records", "a number of days above 0")
    ] = 7.0
    store_gb: Annotated[
        float,
        Meta(ge=0.02, le=1e6),
        _about(
            "Size limit of the embedded bus's store; beyond it, producers are refused",
            "a number of gigabytes, at least 0.02",
        ),
    ] = 20.0
    idle_s: Annotated[
        float,
        Meta(gt=0, le=1e6),
        _about("Silence on the bus after which a call without an end event is ended", "a number of seconds above 0"),
    ] = 60.0
    late_s: Annotated[
        float,
        Meta(gt=0, le=1e6),
        _about(
            "How long a missing event of a call is waited for once a later one has come", "a number of seconds above 0"
        ),
    ] = 10.0
    model: Annotated[
        str, Meta(min_length=1), _about("Whisper weights", "a model name, a directory, or package:NAME")
    ] = "base"
    engine: Annotated[
        Literal["callstream", "whisperx"],
        _about(
            "Code that decodes with the model: `callstream` has short windows, word times, second attempts and "
            "partials; `whisperx` is WhisperX's own batched pipeline without them, a reference to compare with",
            "callstream or whisperx",
        ),
    ] = "callstream"
    device: Annotated[
        str,
        Meta(pattern=r"^(cpu|auto|cuda|cuda:all|cuda:\d{1,3}(,cuda:\d{1,3})*)$"),
        _about(
            "Device for the model: `cuda` is the first GPU that CTranslate2 sees, `auto` is that GPU or, if it cannot "
            "be used, the CPU; several GPUs share one queue",
            "cpu, auto, cuda, cuda:all or cuda:N[,cuda:N…]",
        ),
    ] = "cpu"
    compute_type: Annotated[
        Literal["auto", "int8", "int8_float16", "float16", "float32"],
        _about(
            "Arithmetic of the model; `auto` is int8 on a CPU and float16 on a GPU",
            "auto, int8, int8_float16, float16 or float32",
        ),
    ] = "auto"
    asr_workers: Annotated[
        int,
        Meta(ge=1, le=64),
        _about(
            "Utterances (on a GPU, batches) that a device transcribes in parallel, one thread each",
            "a whole number from 1 to 64",
            default="one per core, at most 4",
        ),
    ] = msgspec.field(default_factory=lambda: min(4, _cores()))
    asr_batch: Annotated[
        Annotated[int, Meta(ge=1, le=256)] | None,
        _about(
            "Utterances in a batch, half as many if backfill is among them; `auto` is 16 on a GPU, or what its memory "
            "leaves room for, and 1 on a CPU",
            "auto or a whole number from 1 to 256",
            none="auto",
        ),
    ] = None
    beam_size: Annotated[
        int, Meta(ge=1, le=20), _about("Beam size of Whisper's decoder", "a whole number from 1 to 20")
    ] = 5
    language: Annotated[
        Annotated[str, Meta(pattern=r"^[a-z]{2,3}$")] | None,
        _about(
            "Language of calls whose start names none; `auto` detects it per call",
            "auto or an ISO 639-1 code such as en",
            none="auto",
        ),
    ] = None
    default_language: Annotated[
        str, Meta(pattern=r"^[a-z]{2,3}$"), _about("Language until detection is sure", "an ISO 639-1 code such as en")
    ] = "en"
    hotwords: Annotated[
        Annotated[str, Meta(min_length=1)] | None,
        _about(
            "Names and words that calls are likely to contain and Whisper is likely to miss, for all tenants or for "
            "one; they follow those that a call's start names",
            "none, or [TENANT=]WORD,WORD…[;…]",
            none="none",
        ),
    ] = None
    align_model: Annotated[
        Annotated[str, Meta(min_length=1)] | None,
        _about(
            "wav2vec2 weights for word timestamps: a directory, a hub name or a torchaudio bundle; a single one is "
            "for CALLSTREAM_DEFAULT_LANGUAGE; `auto` takes WhisperX's for each language, from the hub if needed; "
            "`gpu` is `auto` where a GPU transcribes, else `off`",
            "off, gpu, auto, a model, or LANGUAGE=MODEL[,LANGUAGE=MODEL…]",
            none="off",
        ),
    ] = "gpu"
    model_memory_gb: Annotated[
        Annotated[float, Meta(gt=0, le=1e6)] | None,
        _about(
            "Device memory for all alignment models together; beyond it the least recently used one is evicted, and "
            "reloaded when needed",
            "none or a number of gigabytes above 0",
            none="none",
        ),
    ] = None
    diarization: Annotated[
        str,
        Meta(min_length=1),
        _about(
            "What separates the speakers of a mono call when it ends: `auto` clusters voice embeddings of the package "
            "Resemblyzer, if installed; a directory or hub name is a pyannote.audio pipeline",
            "auto, off, a directory or a hub name",
        ),
    ] = "auto"
    ollama_url: Annotated[
        str,
        Meta(pattern=r"^https?://\S+$"),
        _about("Address of Ollama; without it, summaries are extractive", "http://[USER:PASSWORD@]HOST:PORT"),
    ] = "http://127.0.0.1:11434"
    summary_model: Annotated[
        str,
        Meta(min_length=1),
        _about(
            "Model that Ollama summarizes with, named as in `ollama list`; TYPE=MODEL is for calls whose metadata has "
            "that `call_type`, `long=MODEL` for calls that exceed the context",
            "MODEL[,TYPE=MODEL…]",
        ),
    ] = "llama3.2:1b"
    summary_context: Annotated[
        int,
        Meta(ge=1024, le=1_000_000),
        _about(
            "Tokens for a prompt and its answer together, 1024 of them for the answer; at most the model's own limit; "
            "longer calls are read in parts",
            "a whole number from 1024",
        ),
    ] = 8192
    summary_requests: Annotated[
        int,
        Meta(ge=1, le=64),
        _about("Concurrent requests to Ollama; live calls go first", "a whole number from 1 to 64"),
    ] = 1
    summary_rolling: Annotated[
        Annotated[int, Meta(ge=1, le=10_000)] | None,
        _about(
            "New turns after which a call in progress gets a rolling summary; on a CPU this takes time from the "
            "transcriber",
            "off or a number of turns",
            none="off",
        ),
    ] = None
    summary_timeout_s: Annotated[
        float, Meta(gt=0, le=1e6), _about("Longest wait for a summary from Ollama", "a number of seconds above 0")
    ] = 120.0
    search: Annotated[
        Literal["auto", "on", "off"],
        _about(
            "Whether `up` makes calls searchable; `auto` does if callstream[search] is installed",
            "auto, on or off",
        ),
    ] = "auto"
    embedding_model: Annotated[
        str,
        Meta(min_length=1),
        _about(
            "Sentence embeddings for search; a change requires `callstream search --rebuild`",
            f"{DEFAULT_EMBEDDING_MODEL}, a directory, or a hub name such as BAAI/bge-large-en-v1.5",
        ),
    ] = DEFAULT_EMBEDDING_MODEL
    qdrant_url: Annotated[
        Annotated[str, Meta(pattern=r"^https?://[^\s/@]+(/\S*)?$")] | None,
        _about(
            "Qdrant server for the search index, for more than about 100,000 windows or several index workers; "
            "otherwise the index is a file in the data directory",
            "http://HOST:PORT",
            none="none",
        ),
    ] = None
    qdrant_api_key: Annotated[
        Annotated[Secret, Meta()] | None,
        _about("API key for Qdrant; never shown or logged", "a key", none="none"),
    ] = None
    sql_time_s: Annotated[
        float,
        Meta(ge=0.1, le=86_400),
        _about("Time after which a query of `callstream sql` is ended", "a number of seconds from 0.1 to 86400"),
    ] = 60.0
    sql_memory_gb: Annotated[
        float,
        Meta(ge=0.1, le=1024),
        _about("Memory that a query of `callstream sql` may take", "a number of gigabytes from 0.1 to 1024"),
    ] = 1.0
    sql_temp_gb: Annotated[
        float,
        Meta(ge=0, le=1e6),
        _about(
            "Disk that such a query may take for what does not fit into its memory", "a number of gigabytes, 0 for none"
        ),
    ] = 1.0
    sql_rows: Annotated[
        int,
        Meta(ge=1, le=100_000_000),
        _about("Rows that the result of such a query may have", "a whole number from 1 to 100000000"),
    ] = 100_000
    sql_readers: Annotated[
        int,
        Meta(ge=1, le=1_000),
        _about(
            "Such queries that run at the same time on a data directory; more wait", "a whole number from 1 to 1000"
        ),
    ] = 4
    metrics_port: Annotated[
        Annotated[int, Meta(ge=0, le=65_535)] | None,
        _about("Port on 127.0.0.1 for Prometheus; 0 picks a free one", "a port number or off", none="off"),
    ] = 0
    log_format: Annotated[
        Literal["console", "json"],
        _about("Format of log lines on standard error: for people, or one JSON object each", "console or json"),
    ] = "console"
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        _about("Least severe level that is logged", "debug, info, warning or error"),
    ] = "info"

    @classmethod
    def load(
        cls,
        environ: Mapping[str, str] | None = None,
        config_path: Path | None = None,
        overrides: Mapping[str, object] | None = None,
    ) -> "Settings":
        """Return the settings in force: `overrides` first, then the environment, the file, the defaults.

        Args:
            environ: this process's environment if None. An empty variable counts as unset.
            config_path: the settings file; else the one that CALLSTREAM_CONFIG names; else `callstream.toml` in the
                data directory, if it exists.
            overrides: values of command-line options; None counts as not given.

        Raises:
            ConfigurationError: names the setting, where its value stands, and what is expected.
        """
        environ = os.environ if environ is None else environ
        values: dict[str, Any] = {}
        for name in SETTINGS:
            if text := environ.get(SETTINGS[name].variable):
                values[name] = SETTINGS[name].read(text, SETTINGS[name].variable, strict=False)
            given = (overrides or {}).get(name)
            if given is not None:
                values[name] = SETTINGS[name].read(given, f"--{name.replace('_', '-')}", strict=False)
        named = config_path or (Path(environ[CONFIG_VARIABLE]) if environ.get(CONFIG_VARIABLE) else None)
        if named is not None:
            values = _read_file(named.expanduser()) | values
        values.setdefault("data", _default_data(environ))
        found = values["data"] / CONFIG_FILE
        if named is None and found.is_file():
            from_file = _read_file(found)
            if "data" in from_file:
                raise ConfigurationError(f"{found}: `data` cannot be set in the data directory's own file")
            values = from_file | values
        return cls(**values)

    def align_models(self) -> dict[str, str]:
        """Return the models that `align_model` names by language. Raises ConfigurationError."""
        if self.align_model is None or self.align_model in ("auto", "gpu"):
            return {}
        models: dict[str, str] = {}
        for part in self.align_model.split(","):
            language, equals, model = (piece.strip() for piece in part.partition("="))
            if not equals:
                language, model = self.default_language, language
            if not re.fullmatch("[a-z]{2,3}", language) or not model or language in models:
                setting = SETTINGS["align_model"]
                raise ConfigurationError(f"{setting.variable} is {self.align_model!r}; expected {setting.expects}")
            models[language] = model
        return models

    @property
    def store_bytes(self) -> int:
        """The limit of the embedded bus's store, in bytes."""
        return int(self.store_gb * 1e9)

    def summary_models(self) -> dict[str, str]:
        """Return the models of `summary_model` by call type, "" for all others. Raises ConfigurationError."""
        models: dict[str, str] = {}
        for part in self.summary_model.split(","):
            named, equals, model = (piece.strip() for piece in part.partition("="))
            call_type, model = (named, model) if equals else ("", named)
            if not model or call_type in models or (equals and not call_type):
                setting = SETTINGS["summary_model"]
                raise ConfigurationError(f"{setting.variable} is {self.summary_model!r}; expected {setting.expects}")
            models[call_type] = model
        if "" not in models:
            setting = SETTINGS["summary_model"]
            raise ConfigurationError(
                f"{setting.variable} is {self.summary_model!r}; one model must be for all other calls"
            )
        return models

    def tenant_hotwords(self, tenant: str) -> list[str]:
        """Return the `hotwords` for the tenant's calls: its own first, then those for all tenants."""
        own: list[str] = []
        everybody: list[str] = []
        for part in (self.hotwords or "").split(";"):
            named, equals, words = part.partition("=")
            found = [word.strip() for word in (words if equals else named).split(",") if word.strip()]
            if not equals:
                everybody += found
            elif named.strip() == tenant:
                own += found
        return own + everybody

    def bus_security(self) -> BusSecurity:
        """Return the `bus_…` settings as one object. Raises ConfigurationError if they contradict each other."""
        tls = self.bus_tls == "on" or (self.bus or "").startswith("tls://")
        return self._security(self.bus_user, self.bus_password, tls=tls, of="BUS")

    def live_security(self) -> BusSecurity:
        """Return the same for the server of `live_url`: its own user, the bus's files."""
        tls = (self.live_url or "").startswith("tls://")
        return self._security(self.live_user, self.live_password, tls=tls, of="LIVE")

    def _security(self, user: str | None, password: Secret | None, *, tls: bool, of: str) -> BusSecurity:
        addresses = (self.bus or "", self.live_url or "")
        if self.bus_tls == "off" and not any(address.startswith("tls://") for address in addresses):
            for name in ("bus_ca_file", "bus_cert_file"):
                if getattr(self, name) is not None:
                    raise ConfigurationError(f"{SETTINGS[name].variable} is set and CALLSTREAM_BUS_TLS is off")
        if self.bus_key_file is not None and self.bus_cert_file is None:
            raise ConfigurationError("CALLSTREAM_BUS_KEY_FILE is set without CALLSTREAM_BUS_CERT_FILE")
        if (user is None) != (password is None):
            raise ConfigurationError(
                f"CALLSTREAM_{of}_USER and CALLSTREAM_{of}_PASSWORD go together: one of them is set"
            )
        return BusSecurity(
            user=user,
            password=password,
            credentials=self.bus_credentials,
            tls=tls,
            ca_file=self.bus_ca_file,
            cert_file=self.bus_cert_file,
            key_file=self.bus_key_file,
            sasl=self.bus_sasl,
        )


class Setting(msgspec.Struct, frozen=True):
    """One setting as documented: its field's name, and what `_about` says beside the field."""

    name: str
    variable: str
    description: str
    expects: str
    default: str
    none: str | None
    kind: Any

    def read(self, value: object, source: str, *, strict: bool) -> Any:
        """Convert `value` to the field's type, text to numbers unless `strict`. Raises ConfigurationError."""
        if self.none is not None and value == self.none:
            return None
        try:
            return msgspec.convert(value, self.kind, strict=strict, dec_hook=_convert)
        except (msgspec.ValidationError, ValueError) as error:
            raise ConfigurationError(f"{source} is {self._shown(value)}; expected {self.expects}") from error

    def _shown(self, value: object) -> str:
        """Return a refused value for its error, without secrets, also those inside a URL."""
        if typing.get_args(self.kind)[:1] == (Secret,):
            return f"of type {type(value).__name__}"
        return re.sub(r"//[^/\s]*@", "//***@", repr(value))


def _convert(kind: type, value: object) -> Any:
    if kind is Secret and isinstance(value, str):
        return Secret(value)
    if kind is not Path or not isinstance(value, str | Path) or not str(value):
        raise ValueError(f"not a {kind.__name__}")
    return Path(value).expanduser().absolute()


def _default_data(environ: Mapping[str, str]) -> Path:
    base = environ.get("XDG_DATA_HOME") or str(Path(environ.get("HOME") or Path.home()) / ".local" / "share")
    return Path(base).absolute() / "callstream"


def _read_file(path: Path) -> dict[str, Any]:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"the settings file {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"the settings file {path} is not TOML: {error}") from error
    for name in content:
        if name not in SETTINGS:
            raise ConfigurationError(f"{path}: there is no setting `{name}`; there are {', '.join(SETTINGS)}")
    return {name: SETTINGS[name].read(value, f"{path}: `{name}`", strict=True) for name, value in content.items()}


def _without_none(hint: Any) -> Any:
    """Return the type that text is read as. `None` has its own word, which is not msgspec's "null"."""
    return next(
        (kind for kind in typing.get_args(typing.get_args(hint)[0]) if typing.get_origin(kind) is Annotated), hint
    )


def _settings() -> dict[str, Setting]:
    settings = {}
    hints = typing.get_type_hints(Settings, include_extras=True)
    for field in msgspec.structs.fields(Settings):
        about = next(meta for meta in hints[field.name].__metadata__ if meta.description)
        default = field.default
        if about.extra["default"] is not None:
            text = about.extra["default"]
        else:
            text = (
                about.extra["none"]
                if default is None
                else f"{default:g}"
                if isinstance(default, float)
                else str(default)
            )
        settings[field.name] = Setting(
            name=field.name,
            variable=_PREFIX + field.name.upper(),
            description=about.description,
            expects=about.extra["expects"],
            default=text,
            none=about.extra["none"],
            kind=_without_none(hints[field.name]),
        )
    return settings


SETTINGS: Mapping[str, Setting] = _settings()
"""Every setting by name, in the order of the fields."""


def markdown_table() -> str:
    """Return all settings as one Markdown table; `infra/README.md` shows its rows, grouped."""
    rows = ["| variable | default | value | what it sets |", "|---|---|---|---|"]
    rows += [f"| `{s.variable}` | {s.default} | {s.expects} | {s.description} |" for s in SETTINGS.values()]
    return "\n".join(rows)
