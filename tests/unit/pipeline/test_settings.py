"""Settings: what wins over what, and that each mistake names the setting and what is expected."""

import re
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ConfigurationError
from pipeline.secret import Secret
from pipeline.settings import SETTINGS, Settings, markdown_table

REPOSITORY = Path(__file__).parents[3]


def test_without_anything_set_the_defaults_hold(tmp_path: Path) -> None:
    settings = Settings.load({"HOME": str(tmp_path)})
    assert settings == Settings(data=tmp_path / ".local/share/callstream")
    assert settings.bus is None
    assert settings.partitions == 8
    assert 1 <= settings.asr_workers <= 4


def test_the_data_directory_follows_the_desktop_convention(tmp_path: Path) -> None:
    assert Settings.load({"XDG_DATA_HOME": str(tmp_path), "HOME": "/nowhere"}).data == tmp_path / "callstream"


def test_an_override_wins_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    (tmp_path / "callstream.toml").write_text("partitions = 2\nbeam_size = 2\nasr_workers = 2\n")
    environ = {"CALLSTREAM_DATA": str(tmp_path), "CALLSTREAM_PARTITIONS": "3", "CALLSTREAM_BEAM_SIZE": "3"}
    settings = Settings.load(environ, overrides={"partitions": 4, "asr_workers": None})
    assert (settings.partitions, settings.beam_size, settings.asr_workers) == (4, 3, 2)


def test_a_named_file_is_read_instead_of_the_data_directorys(tmp_path: Path) -> None:
    data, named = tmp_path / "data", tmp_path / "named.toml"
    data.mkdir()
    (data / "callstream.toml").write_text("partitions = 2\n")
    named.write_text("beam_size = 2\n")
    environ = {"CALLSTREAM_DATA": str(data), "CALLSTREAM_CONFIG": str(named)}
    by_environment = Settings.load(environ)
    assert (by_environment.partitions, by_environment.beam_size) == (8, 2)
    assert Settings.load({"CALLSTREAM_DATA": str(data)}, config_path=named) == by_environment


def test_a_named_file_may_move_the_data_directory_and_its_own_file_may_not(tmp_path: Path) -> None:
    named = tmp_path / "named.toml"
    named.write_text(f'data = "{tmp_path / "elsewhere"}"\n')
    assert Settings.load({}, config_path=named).data == tmp_path / "elsewhere"
    (tmp_path / "callstream.toml").write_text('data = "elsewhere"\n')
    with pytest.raises(ConfigurationError, match="own file"):
        Settings.load({"CALLSTREAM_DATA": str(tmp_path)})


def test_a_named_file_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"absent\.toml cannot be read"):
        Settings.load({"CALLSTREAM_CONFIG": str(tmp_path / "absent.toml")})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("partitons = 8", "no setting `partitons`.*partitions"),
        ("partitions = ", "not TOML"),
        ('partitions = "8"', r"`partitions` is '8'; expected a whole number from 1 to 1024"),
        ("partitions = true", "`partitions` is True"),
        ("idle_s = inf", "`idle_s` is inf; expected a number of seconds above 0"),
        ("[model]\nname = 'base'", "`model` is {'name': 'base'}"),
        ("data = 3", "`data` is 3; expected a directory"),
    ],
)
def test_a_mistake_in_the_file_names_the_file_the_setting_and_what_is_expected(
    tmp_path: Path, content: str, message: str
) -> None:
    path = tmp_path / "mistake.toml"
    path.write_text(content)
    with pytest.raises(ConfigurationError, match=message) as raised:
        Settings.load({}, config_path=path)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("CALLSTREAM_PARTITIONS", "0", "a whole number from 1 to 1024"),
        ("CALLSTREAM_PARTITIONS", "eight", "a whole number from 1 to 1024"),
        (
            "CALLSTREAM_BUS",
            "amqp://localhost:5672",
            "embedded, nats://HOST:PORT, tls://HOST:PORT or kafka://HOST:PORT[,HOST:PORT]",
        ),
        ("CALLSTREAM_DEVICE", "tpu", "cpu, auto, cuda, cuda:all or cuda:N[,cuda:N…]"),
        ("CALLSTREAM_DEVICE", "cuda:0,cpu", "cpu, auto, cuda, cuda:all or cuda:N[,cuda:N…]"),
        ("CALLSTREAM_ASR_BATCH", "0", "auto or a whole number from 1 to 256"),
        ("CALLSTREAM_MODEL_MEMORY_GB", "0", "none or a number of gigabytes above 0"),
        ("CALLSTREAM_LANGUAGE", "English", "auto or an ISO 639-1 code such as en"),
        ("CALLSTREAM_STORE_GB", "0.01", "a number of gigabytes, at least 0.02"),
        ("CALLSTREAM_METRICS_PORT", "70000", "a port number or off"),
        ("CALLSTREAM_METRICS_PORT", "null", "a port number or off"),
    ],
)
def test_a_mistake_in_the_environment_names_the_variable_its_value_and_what_is_expected(
    variable: str, value: str, expected: str
) -> None:
    with pytest.raises(ConfigurationError) as raised:
        Settings.load({variable: value})
    assert str(raised.value) == f"{variable} is {value!r}; expected {expected}"


def test_a_mistake_on_the_command_line_names_the_option() -> None:
    with pytest.raises(ConfigurationError, match=r"--beam-size is 0; expected a whole number from 1 to 20"):
        Settings.load({}, overrides={"beam_size": 0})


def test_the_words_for_nothing_undo_a_value_from_the_file(tmp_path: Path) -> None:
    path = tmp_path / "callstream.toml"
    path.write_text('bus = "nats://broker:4222"\nlanguage = "de"\nmetrics_port = 9100\n')
    environ = {"CALLSTREAM_DATA": str(tmp_path)}
    assert Settings.load(environ).bus == "nats://broker:4222"
    undone = {"CALLSTREAM_BUS": "embedded", "CALLSTREAM_LANGUAGE": "auto", "CALLSTREAM_METRICS_PORT": "off"}
    settings = Settings.load(environ | undone)
    assert (settings.bus, settings.language, settings.metrics_port) == (None, None, None)


def test_a_password_is_read_and_never_shown(tmp_path: Path) -> None:
    (tmp_path / "callstream.toml").write_text('bus_password = "hunter2"\nbus_user = "branch"\n')
    settings = Settings.load({"CALLSTREAM_DATA": str(tmp_path)})
    assert settings.bus_security().password == Secret("hunter2")
    assert settings.bus_security().password != Secret("hunter3")
    shown = f"{settings!r} {settings} {settings.bus_security()} {msgspec.structs.asdict(settings)}"
    assert "branch" in shown
    assert "hunter2" not in shown


def test_a_password_in_an_address_is_refused_and_not_shown() -> None:
    with pytest.raises(ConfigurationError) as raised:
        Settings.load({"CALLSTREAM_BUS": "nats://me:hunter2@broker:4222"})
    assert "'nats://***@broker:4222'" in str(raised.value)
    assert "hunter2" not in str(raised.value)


def test_a_password_of_the_wrong_type_is_refused_and_not_shown(tmp_path: Path) -> None:
    (tmp_path / "callstream.toml").write_text("bus_password = 271828\n")
    with pytest.raises(ConfigurationError, match="`bus_password` is of type int; expected a password") as raised:
        Settings.load({"CALLSTREAM_DATA": str(tmp_path)})
    assert "271828" not in str(raised.value)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"BUS_CA_FILE": "/ca.pem"}, "CALLSTREAM_BUS_CA_FILE is set and CALLSTREAM_BUS_TLS is off"),
        ({"BUS_CERT_FILE": "/c.pem", "BUS": "nats://h:1"}, "CALLSTREAM_BUS_CERT_FILE is set and CALLSTREAM_BUS_TLS"),
        ({"BUS_KEY_FILE": "/k.pem", "BUS_TLS": "on"}, "without CALLSTREAM_BUS_CERT_FILE"),
        ({"BUS_USER": "branch"}, "go together"),
        ({"BUS_PASSWORD": "secret"}, "go together"),
    ],
)
def test_what_secures_the_bus_must_fit_together(environ: dict[str, str], expected: str) -> None:
    settings = Settings.load({f"CALLSTREAM_{name}": text for name, text in environ.items()})
    with pytest.raises(ConfigurationError, match=expected):
        settings.bus_security()


def test_an_address_that_asks_for_tls_turns_it_on() -> None:
    assert Settings.load({"CALLSTREAM_BUS": "tls://broker:4222"}).bus_security().tls
    assert Settings.load({"CALLSTREAM_BUS_TLS": "on"}).bus_security().tls
    assert not Settings.load({"CALLSTREAM_BUS": "nats://broker:4222"}).bus_security().tls


def test_who_this_is_to_the_live_server_is_not_who_it_is_to_the_bus() -> None:
    settings = Settings.load(
        {
            "CALLSTREAM_BUS": "kafka://broker:9092",
            "CALLSTREAM_BUS_USER": "worker",
            "CALLSTREAM_BUS_PASSWORD": "one",
            "CALLSTREAM_LIVE_URL": "tls://live:4222",
            "CALLSTREAM_LIVE_USER": "fanout",
            "CALLSTREAM_LIVE_PASSWORD": "two",
            "CALLSTREAM_BUS_CA_FILE": "/ca.pem",
        }
    )
    bus, live = settings.bus_security(), settings.live_security()
    assert (bus.user, bus.password, bus.tls) == ("worker", Secret("one"), False)
    assert (live.user, live.password, live.tls) == ("fanout", Secret("two"), True)
    assert live.ca_file == Path("/ca.pem")
    alone = Settings.load({"CALLSTREAM_LIVE_URL": "nats://live:4222", "CALLSTREAM_LIVE_USER": "fanout"})
    with pytest.raises(ConfigurationError, match="CALLSTREAM_LIVE_PASSWORD go together"):
        alone.live_security()


@pytest.mark.parametrize("device", ["cpu", "auto", "cuda", "cuda:all", "cuda:1", "cuda:0,cuda:10"])
def test_a_device_may_be_one_gpu_several_or_all(device: str) -> None:
    assert Settings.load({"CALLSTREAM_DEVICE": device}).device == device


def test_an_empty_variable_counts_as_unset() -> None:
    assert Settings.load({"CALLSTREAM_MODEL": "", "CALLSTREAM_PARTITIONS": ""}).model == "base"


@given(st.integers(1, 1024), st.floats(1e-3, 1e6), st.from_regex(r"[a-z]{2,3}", fullmatch=True))
def test_any_value_in_range_reads_back_from_text(partitions: int, idle_s: float, language: str) -> None:
    settings = Settings.load(
        {
            "CALLSTREAM_PARTITIONS": str(partitions),
            "CALLSTREAM_IDLE_S": repr(idle_s),
            "CALLSTREAM_DEFAULT_LANGUAGE": language,
        }
    )
    assert (settings.partitions, settings.idle_s, settings.default_language) == (partitions, idle_s, language)


def test_each_setting_has_a_default_that_its_own_reader_accepts() -> None:
    settings = Settings(data=Path("/data"))
    for name, setting in SETTINGS.items():
        value = getattr(settings, name)
        shown = setting.none if value is None else value
        assert setting.read(shown, setting.variable, strict=False) == value


def test_the_operators_page_shows_every_setting_as_it_is_under_one_heading() -> None:
    assert len(SETTINGS) == len(msgspec.structs.fields(Settings))
    page = (REPOSITORY / "infra" / "README.md").read_text(encoding="utf-8")
    tables = re.findall(r"^### (.+)\n\n(\| variable \|.*(?:\n\|.*)*)", page, re.MULTILINE)
    assert [heading for heading, _ in tables] == [
        "Data",
        "Bus",
        "Live updates",
        "Transcriber",
        "Summaries",
        "Search",
        "Queries",
        "Telemetry",
    ]
    head, rule, *rows = markdown_table().splitlines()
    shown: list[str] = []
    for heading, table in tables:
        assert table.splitlines()[:2] == [head, rule]
        group = table.splitlines()[2:]
        assert [row for row in rows if row in group] == group, f"{heading}: these rows are not markdown_table()'s"
        shown += group
    assert sorted(shown) == sorted(rows), f"not shown: {sorted(set(rows) - set(shown))}"


def test_hotwords_are_those_of_a_tenant_and_of_all() -> None:
    def words(text: str, tenant: str) -> list[str]:
        return Settings.load({"CALLSTREAM_HOTWORDS": text}).tenant_hotwords(tenant)

    assert words("none", "acme") == []
    assert words("Northwind, Carter", "acme") == ["Northwind", "Carter"]
    assert words("acme=Roadrunner;Northwind,;other=Coyote", "acme") == ["Roadrunner", "Northwind"]
    assert words("acme=Roadrunner", "other") == []


def test_alignment_models_are_named_by_language_or_for_the_default_one(tmp_path: Path) -> None:
    def models(text: str, **more: str) -> dict[str, str]:
        environ = {"CALLSTREAM_DATA": str(tmp_path), "CALLSTREAM_ALIGN_MODEL": text, **more}
        return Settings.load(environ).align_models()

    assert models("off") == models("auto") == {}
    assert models("/weights/english") == {"en": "/weights/english"}
    assert models("org/name", CALLSTREAM_DEFAULT_LANGUAGE="de") == {"de": "org/name"}
    assert models("en=/a, de=org/b") == {"en": "/a", "de": "org/b"}
    for wrong in ("en=", "en=/a,en=/b", "English=/a", "en=/a,"):
        with pytest.raises(ConfigurationError, match="CALLSTREAM_ALIGN_MODEL"):
            models(wrong)
