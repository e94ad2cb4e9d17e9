"""What an operator can set, and the only place that reads the environment.

A setting is a field of `Settings`. Its type, bounds, description and the words of its error stand beside it, once: the
environment variable (`CALLSTREAM_` and the name in capitals), the key in the TOML file and README's table follow.
Other code takes values.
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
    """Description, and the words of the error. `default`: how a computed one reads; `none`: the word for None."""
    return Meta(description=description, extra={"expects": expects, "default": default, "none": none})


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings of one process. `load` gives one; tests build it directly, only `data` is required."""

    data: Annotated[
        Path,
        _about(
            "Folder of all that is kept: the bus's store, the DuckDB file, models put together from packages",
            "a folder",
            default="$XDG_DATA_HOME/callstream, else ~/.local/share/callstream",
        ),
    ]
    bus: Annotated[
        Annotated[str, Meta(pattern=r"^(nats|tls|kafka)://[^\s/@]+$")] | None,
        _about(
            "Where the bus is; embedded starts a nats-server of its own, tls:// is NATS that must use TLS",
            "embedded, nats://HOST:PORT, tls://HOST:PORT or kafka://HOST:PORT[,HOST:PORT]",
            none="embedded",
        ),
    ] = None
    bus_user: Annotated[
        Annotated[str, Meta(min_length=1)] | None,
        _about("Who this is to the bus; for Kafka it turns SASL on", "a user's name", none="none"),
    ] = None
    bus_password: Annotated[
        Annotated[Secret, Meta()] | None,
        _about("The user's password; never shown or logged", "a password", none="none"),
    ] = None
    bus_sasl: Annotated[
        SaslMechanism,
        _about("How Kafka is shown the password", "SCRAM-SHA-512, SCRAM-SHA-256 or PLAIN"),
    ] = "SCRAM-SHA-512"
    bus_credentials: Annotated[
        Annotated[Path, Meta()] | None,
        _about("A NATS credentials file (.creds), instead of user and password", "a file", none="none"),
    ] = None
    bus_tls: Annotated[
        Literal["off", "on"],
        _about("Whether the bus must be reached by TLS; with tls:// it is", "off or on"),
    ] = "off"
    bus_ca_file: Annotated[
        Annotated[Path, Meta()] | None,
        _about("Authorities that may vouch for the bus, as PEM", "a file", none="the system's"),
    ] = None
    bus_cert_file: Annotated[
        Annotated[Path, Meta()] | None,
        _about("Certificate that this shows to the bus, as PEM", "a file", none="none"),
    ] = None
    bus_key_file: Annotated[
        Annotated[Path, Meta()] | None,
        _about("The certificate's key, as PEM, where it is not in the same file", "a file", none="none"),
    ] = None
    live_url: Annotated[
        Annotated[str, Meta(pattern=r"^(nats|tls)://[^\s/@]+$")] | None,
        _about(
            "The NATS server that shows calls as they go on; with Kafka none unless it is set",
            "nats://HOST:PORT or tls://HOST:PORT",
            none="the bus's",
        ),
    ] = None
    live_user: Annotated[
        Annotated[str, Meta(min_length=1)] | None,
        _about("Who this is to the server of CALLSTREAM_LIVE_URL", "a user's name", none="none"),
    ] = None
    live_password: Annotated[
        Annotated[Secret, Meta()] | None,
        _about("That user's password; credentials and TLS files are the bus's", "a password", none="none"),
    ] = None
    partitions: Annotated[
        int,
        Meta(ge=1, le=1024),
        _about("Partitions of each topic, fixed when the topic is created", "a whole number from 1 to 1024"),
    ] = 8
    replication: Annotated[
        int,
        Meta(ge=1, le=100),
        _about("Copies of each record on Kafka, where a topic is created by us", "a whole number from 1 to 100"),
    ] = 1
    sync: Annotated[
        Literal["1s", "always"],
        _about("When the embedded bus forces records to disk: each second or each record", "1s or always"),
    ] = "always"
    retention_days: Annotated[
        float, Meta(gt=0, le=1e6), _about("How long the bus keeps records", "a number of days above 0")
    ] = 7.0
    store_gb: Annotated[
        float,
        Meta(gt=0, le=1e6),
        _about(
            "The most that the embedded bus's store may hold; past it producers are refused",
            "a number of gigabytes above 0",
        ),
    ] = 20.0
    idle_s: Annotated[
        float,
        Meta(gt=0, le=1e6),
        _about("Silence on the bus after which a call without an end event is ended", "a number of seconds above 0"),
    ] = 60.0
    model: Annotated[
        str, Meta(min_length=1), _about("Whisper weights", "a model's name, a directory, or package:NAME")
    ] = "base"
    device: Annotated[
        str,
        Meta(pattern=r"^(cpu|auto|cuda|cuda:all|cuda:\d{1,3}(,cuda:\d{1,3})*)$"),
        _about(
            "What runs the model: cuda is the first GPU that CTranslate2 sees; auto too, or the CPU where none works; "
            "several take turns at one queue",
            "cpu, auto, cuda, cuda:all or cuda:N[,cuda:N…]",
        ),
    ] = "cpu"
    compute_type: Annotated[
        Literal["auto", "int8", "int8_float16", "float16", "float32"],
        _about(
            "The model's arithmetic; auto is int8 on a CPU and float16 on a GPU",
            "auto, int8, int8_float16, float16 or float32",
        ),
    ] = "auto"
    asr_workers: Annotated[
        int,
        Meta(ge=1, le=64),
        _about(
            "Utterances, on a GPU batches, that a device transcribes at a time, one thread each",
            "a whole number from 1 to 64",
            default="one per core, at most 4",
        ),
    ] = msgspec.field(default_factory=lambda: min(4, _cores()))
    asr_batch: Annotated[
        Annotated[int, Meta(ge=1, le=256)] | None,
        _about(
            "Utterances in a batch, half as many with backfill among them; auto is 16 on a GPU and 1 on a CPU",
            "auto or a whole number from 1 to 256",
            none="auto",
        ),
    ] = None
    beam_size: Annotated[int, Meta(ge=1, le=20), _about("Whisper's beam", "a whole number from 1 to 20")] = 5
    language: Annotated[
        Annotated[str, Meta(pattern=r"^[a-z]{2,3}$")] | None,
        _about(
            "Language of all calls whose start names none; auto detects it per call",
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
            "Names and words that calls are likely to hold and Whisper is likely to miss, of all tenants or of one; "
            "they come behind those that a call's start names",
            "none, or [TENANT=]WORD,WORD…[;…]",
            none="none",
        ),
    ] = None
    align_model: Annotated[
        Annotated[str, Meta(min_length=1)] | None,
        _about(
            "wav2vec2 weights that time the words: a directory, a hub name or a bundle of torchaudio; a single one is "
            "for CALLSTREAM_DEFAULT_LANGUAGE; auto takes WhisperX's for each language, from the hub where needed",
            "off, auto, a model, or LANGUAGE=MODEL[,LANGUAGE=MODEL…]",
            none="off",
        ),
    ] = None
    model_memory_gb: Annotated[
        Annotated[float, Meta(gt=0, le=1e6)] | None,
        _about(
            "What alignment models may take of the device's memory together: the one that was not used for longest is "
            "unloaded, and loaded again when it is needed",
            "none or a number of gigabytes above 0",
            none="none",
        ),
    ] = None
    diarization: Annotated[
        str,
        Meta(min_length=1),
        _about(
            "What tells the speakers of a mono call apart when it ends: auto estimates them by the voice embeddings of "
            "the package Resemblyzer, where it is installed; else a pipeline of pyannote.audio",
            "auto, off, a directory or a hub name",
        ),
    ] = "auto"
    ollama_url: Annotated[
        str,
        Meta(pattern=r"^https?://\S+$"),
        _about("Where Ollama answers; without it summaries are extractive", "http://HOST:PORT"),
    ] = "http://127.0.0.1:11434"
    summary_model: Annotated[
        str,
        Meta(min_length=1),
        _about(
            "The model that Ollama summarizes with, a name as in `ollama list`; others for calls whose metadata have "
            "that `call_type`, and `long=` for calls that do not fit the context",
            "MODEL[,TYPE=MODEL…]",
        ),
    ] = "llama3.2:1b"
    summary_context: Annotated[
        int,
        Meta(ge=1024, le=1_000_000),
        _about(
            "Tokens that a prompt and its answer, 1024 of them, may have together; the model's own limit where that "
            "is less; longer calls are read in parts",
            "a whole number from 1024",
        ),
    ] = 8192
    summary_requests: Annotated[
        int, Meta(ge=1, le=64), _about("Requests to Ollama at a time, live calls' first", "a whole number from 1 to 64")
    ] = 1
    summary_rolling: Annotated[
        Annotated[int, Meta(ge=1, le=10_000)] | None,
        _about(
            "A live call is summarized while it goes on, whenever so many turns are new; on a CPU that takes time from "
            "the transcriber",
            "off or a number of turns",
            none="off",
        ),
    ] = None
    summary_timeout_s: Annotated[
        float, Meta(gt=0, le=1e6), _about("The longest wait for a summary from Ollama", "a number of seconds above 0")
    ] = 120.0
    search: Annotated[
        Literal["auto", "on", "off"],
        _about(
            "Whether `up` makes what is said in calls searchable; auto does where callstream[search] is installed",
            "auto, on or off",
        ),
    ] = "auto"
    embedding_model: Annotated[
        str,
        Meta(min_length=1),
        _about(
            "The sentence embeddings that search rests on; another model needs `callstream search --rebuild`",
            f"{DEFAULT_EMBEDDING_MODEL}, a directory, or a hub name such as BAAI/bge-large-en-v1.5",
        ),
    ] = DEFAULT_EMBEDDING_MODEL
    qdrant_url: Annotated[
        Annotated[str, Meta(pattern=r"^https?://[^\s/@]+(/\S*)?$")] | None,
        _about(
            "A Qdrant server that keeps the search index, for more than some 100,000 windows of talk or several index "
            "workers; else it is a file in the data directory",
            "http://HOST:PORT",
            none="none",
        ),
    ] = None
    qdrant_api_key: Annotated[
        Annotated[Secret, Meta()] | None,
        _about("What shows Qdrant who this is; never shown or logged", "a key", none="none"),
    ] = None
    metrics_port: Annotated[
        Annotated[int, Meta(ge=0, le=65_535)] | None,
        _about("Port on 127.0.0.1 for Prometheus; 0 takes a free one", "a port number or off", none="off"),
    ] = 0
    log_format: Annotated[
        Literal["console", "json"],
        _about("Log lines on standard error: for people, or one JSON object each", "console or json"),
    ] = "console"
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        _about("The least severe line that is logged", "debug, info, warning or error"),
    ] = "info"

    @classmethod
    def load(
        cls,
        environ: Mapping[str, str] | None = None,
        config_path: Path | None = None,
        overrides: Mapping[str, object] | None = None,
    ) -> "Settings":
        """The settings in force: `overrides` (None values count as not given), then environment, file, defaults.

        `environ` is this process's where None. The file is `config_path`, else what CALLSTREAM_CONFIG names, else
        `callstream.toml` in the data directory where there is one. An environment variable without text counts as
        unset. Raises ConfigurationError that names the setting, where its value stands, and what is expected.
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
        """What `align_model` says by language. Raises ConfigurationError."""
        if self.align_model in (None, "auto"):
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
        """What `summary_model` says by call type; "" is that of all others. Raises ConfigurationError."""
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
        """What `hotwords` says of the tenant's calls: its own words, then those of all."""
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
        """What the `bus_…` settings say together. Raises ConfigurationError where they contradict each other."""
        tls = self.bus_tls == "on" or (self.bus or "").startswith("tls://")
        return self._security(self.bus_user, self.bus_password, tls=tls, of="BUS")

    def live_security(self) -> BusSecurity:
        """The same for the server of `live_url`: a user of its own there, files shared with the bus."""
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
    """One setting as documented: its field's name, and the words beside the field."""

    name: str
    variable: str
    description: str
    expects: str
    default: str
    none: str | None
    kind: Any

    def read(self, value: object, source: str, *, strict: bool) -> Any:
        """`value` as the field's type; text stands for numbers unless `strict`. Raises ConfigurationError."""
        if self.none is not None and value == self.none:
            return None
        try:
            return msgspec.convert(value, self.kind, strict=strict, dec_hook=_convert)
        except (msgspec.ValidationError, ValueError) as error:
            raise ConfigurationError(f"{source} is {self._shown(value)}; expected {self.expects}") from error

    def _shown(self, value: object) -> str:
        """A refused value as its error shows it: without what is secret, also where that stands in a URL."""
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
    """The type that text is read as: `None` has a word of its own, which msgspec's "null" is not."""
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
    """The settings as README shows them."""
    rows = ["| variable | default | value | what it sets |", "|---|---|---|---|"]
    rows += [f"| `{s.variable}` | {s.default} | {s.expects} | {s.description} |" for s in SETTINGS.values()]
    return "\n".join(rows)
