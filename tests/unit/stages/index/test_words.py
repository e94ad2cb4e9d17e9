from collections.abc import Iterator

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.adapters.duckdb_file.files import load_extensions
from stages.index.words import STOPWORDS_SQL, WORD, stems

LETTERS = st.characters(max_codepoint=0x2FFF, categories=["L", "N", "M", "P", "Z"], exclude_characters="İ")


@pytest.fixture(scope="module")
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as opened:
        load_extensions(opened, ("fts",))
        yield opened


def duckdb_stems(connection: duckdb.DuckDBPyConnection, text: str) -> list[str]:
    row = connection.execute(
        f"SELECT list_transform(list_filter(regexp_extract_all(lower(?), '{WORD}'), "
        f"lambda word: word NOT IN ({STOPWORDS_SQL})), lambda word: stem(strip_accents(word), 'porter'))",
        [text],
    ).fetchone()
    assert row is not None
    return sorted({stem for stem in row[0] if stem})


def test_stems_of_words_that_say_something() -> None:
    assert stems("The caller's invoices: were they cancelled, or paid? Cancelled!") == ["cancel", "invoic", "paid"]


@given(text=st.text(LETTERS, max_size=60))
def test_stems_are_those_of_duckdb(connection: duckdb.DuckDBPyConnection, text: str) -> None:
    assert stems(text) == duckdb_stems(connection, text)


@pytest.mark.parametrize(
    "text",
    [
        "Señor Müller's réservations für Straßenbahnen",
        "relational conditioning, hopefulness and oscillators",
        "账单 3.50",
    ],
)
def test_stems_of_accents_suffixes_and_other_scripts_are_those_of_duckdb(
    connection: duckdb.DuckDBPyConnection, text: str
) -> None:
    assert stems(text) == duckdb_stems(connection, text)
