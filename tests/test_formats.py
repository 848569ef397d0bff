"""Records: every format is read fully or not at all, nothing is lost, every digit and code point is kept.

No engine is needed, so thousands of files can be tested.
"""

from __future__ import annotations

import base64
import csv
import datetime
import gzip
import io
import json
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lakehouse_lib.intake import formats, records
from lakehouse_lib.intake.streams import Unreadable


def read(data: bytes, kind: str = "json", name: str = "") -> list[dict]:
    """The records of a file's bytes; ``record`` as a dict."""
    reading = formats.Reading()
    rows = [row for batch in formats.read(io.BytesIO(data), kind, reading, name) for row in batch.to_pylist()]
    assert reading.records == len(rows)
    for row in rows:
        assert row["record"] is not None or row["problem"] in records.PROBLEMS
        row["record"] = None if row["record"] is None else dict(row["record"])
    return rows


def fields(data: bytes, kind: str = "json", name: str = "") -> list[dict | None]:
    return [row["record"] for row in read(data, kind, name)]


def problems(data: bytes, kind: str = "json") -> list[str | None]:
    return [row["problem"] for row in read(data, kind)]


# JSON ------------------------------------------------------------------------


def test_numbers_keep_digits_and_text_keeps_code_points():
    line = (
        '{"a":1234567890123456789.12,"b":0.10,"c":9007199254740993,"d":123456789012345678901234567890,'
        '"e":1E2,"f":true,"g":null,"h":"\\ud83d\\ude00\\u0000","i":{"x":[1.50,{"y":"\\"é"}]},"j":-0.0}'
    )
    assert fields(line.encode()) == [
        {
            "a": "1234567890123456789.12",
            "b": "0.10",
            "c": "9007199254740993",
            "d": "123456789012345678901234567890",
            "e": "1E2",
            "f": "true",
            "g": None,
            "h": "😀\0",
            "i": '{"x":[1.50,{"y":"\\"é"}]}',
            "j": "-0.0",
        }
    ]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b'{"a":1}{"b":2}', "malformed_record"),
        (b'{"a":1} trailing', "malformed_record"),
        (b'{"a":1},', "malformed_record"),
        (b'{"a":NaN}', "malformed_record"),
        (b'{"a":0012}', "malformed_record"),
        (b'{"a":.5}', "malformed_record"),
        (b"{'a':1}", "malformed_record"),
        (b"{a:1}", "malformed_record"),
        (b'{"a":1,}', "malformed_record"),
        (b'{"a":"\x01"}', "malformed_record"),
        (b"42", "malformed_record"),
        (b'"text"', "malformed_record"),
        (b'{"a":' + b"1" * 5000 + b"}", "malformed_record"),
        (b'{"a":1}\r{"a":2}', "malformed_record"),
        (b'{"a":1,"a":2}', "ambiguous_fields"),
        (b'{"a":{"b":1,"b":2}}', "ambiguous_fields"),
        (b'{"a":[{"b":1,"b" : 1}]}', "ambiguous_fields"),
        (b'{"a":1,"A":2}', "ambiguous_fields"),
        (b'{"a":"\\ud83d"}', "invalid_unicode"),
        (b'{"a":"\xff"}', "invalid_utf8"),
        (b'{"a":' + b"[" * 300 + b"]" * 300 + b"}", "nested_too_deeply"),
        (b'{"a":' + b"[" * 3000 + b"]" * 3000 + b"}", "nested_too_deeply"),
    ],
)
def test_invalid_line_is_kept_whole_with_its_reason(line, problem):
    single, two, three = read(b'{"a":"before"}\n' + line + b'\n{"a":"after"}')
    assert (single["record"], three["record"]) == ({"a": "before"}, {"a": "after"})
    assert two["problem"] == problem and problem in records.PROBLEMS
    assert two["raw"] == (line.decode() if problem != "invalid_utf8" else "base64:" + base64.b64encode(line).decode())


def test_byte_order_mark_line_ends_and_blank_lines_are_not_part_of_a_record():
    data = b'\xef\xbb\xbf{"a":1}\r\n\r\n   \n\xef\xbb\xbf{"a":2}\n{"a":"\xef\xbb\xbf"}'
    assert [row["raw"] for row in read(data)] == ['{"a":1}', '{"a":2}', '{"a":"\ufeff"}']
    for nothing in (b"", b"\n", b"\xef\xbb\xbf", b" \r\n\n"):
        assert read(nothing) == []


def test_text_that_looks_like_json_is_validated_by_field():
    line = {"properties": '{"value":3} trailing {"value":4}', "b": '{"x":1,"x":2}', "c": "[1]", "d": " {", "e": "{}"}
    (row,) = read(json.dumps(line).encode())
    assert row["not_json"] == ["properties", "b", "d"] and row["record"]["properties"] == line["properties"]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ('[{"a":1.50},{"a":2}]', 2),
        ('[\n {"a":1.50},\n {"a":2}\n]\n', 2),
        ('{\n  "a": 1.50\n}', 1),
        ('{"a": 1.50,\n "b": 2}', 1),
        ("[]", 0),
        ("\ufeff[\r\n]\r\n", 0),
    ],
)
def test_document_is_read_by_element(text, count):
    actual = read(text.encode())
    assert [row["problem"] for row in actual] == [None] * count
    assert [row["record"]["a"] for row in actual] == ["1.50", "2"][:count]


def test_invalid_element_is_set_aside_alone():
    assert problems(b'[\n{"a":1},\n{"a":1,"a":2},\n3\n]') == [None, "ambiguous_fields", "malformed_record"]


@pytest.mark.parametrize(
    "text", ['[\n{"a":1},\n{"a":2}\n', '{\n"a": [\n{"a":1}\n]\n', '[{"a":1}\n{"a":2}]', "[\n1 2\n]"]
)
def test_truncated_document_is_not_read(text):
    with pytest.raises(Unreadable, match="begins like one JSON document"):
        read(text.encode())


def test_truncated_first_line_does_not_turn_the_others_into_a_document():
    assert problems(b'{"a":\n{"a":1}\n[]\n{"a":2}') == ["malformed_record", None, "malformed_record", None]
    assert problems(b'[1]\n{"a":1}') == ["malformed_record", None]


def test_kafka_connect_message_is_read_as_its_payload():
    wrapped = [
        {"schema": {"type": "struct"}, "payload": {"op": "c", "after": {"n": 1}}},
        {"payload": '{"op":"d","n":1.50}'},
        {"schema": None, "payload": None},
    ]
    assert fields("\n".join(map(json.dumps, wrapped)).encode()) == [
        {"op": "c", "after": '{"n":1}'},
        {"op": "d", "n": "1.50"},
        {"payload": None},
    ]


@pytest.mark.parametrize(
    "text",
    [
        '{"event_id":"o"\n,"properties":\n{"event_id":"inner"}\n',
        '{"events": [\n{"a":1},\n{"a":2}\n',
        '{"a": 1,\n"b": 2\n',
    ],
)
def test_truncated_document_that_begins_in_its_first_line_is_not_read(text):
    with pytest.raises(Unreadable, match="begins like one JSON document"):
        read(text.encode())


# Bytes -----------------------------------------------------------------------

LINES = '{"a":"é"}\n{"a":"日本"}\n'


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("kind", ["json", "csv"])
def test_unicode_encodings_are_recognised(encoding, kind):
    text = LINES if kind == "json" else "a\né\n日本\n"
    assert fields(text.encode(encoding), kind) == [{"a": "é"}, {"a": "日本"}]


def test_compression_is_recognised_by_content():
    data = LINES.encode()
    packed, two = data.splitlines(keepends=True)
    skippable = b"\x50\x2a\x4d\x18\x03\x00\x00\x00abc"
    whole = [
        gzip.compress(data),
        gzip.compress(packed) + gzip.compress(two),
        gzip.compress(b"") + gzip.compress(data),
        gzip.compress(data) + b"\0" * 40,
        gzip.compress(data[:5]) + gzip.compress(data[5:]),
        zstandard.compress(data),
        zstandard.compress(packed) + skippable + zstandard.compress(two),
        skippable + zstandard.compress(data),
    ]
    for content in whole:
        assert fields(content, name="x.json") == fields(content, name="x.json.gz") == [{"a": "é"}, {"a": "日本"}]


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress])
def test_compressed_file_is_complete_or_unreadable(pack):
    data = b"".join(b'{"a":%d}\n' % n for n in range(3000))
    packed = pack(data)
    for end in [1, 5, 10, len(packed) // 2, len(packed) - 1]:
        with pytest.raises(Unreadable):
            read(packed[:end], name="x.json.zst")
    broken = bytearray(packed)
    broken[len(packed) // 2] ^= 0xFF
    with pytest.raises(Unreadable):
        read(bytes(broken) + b"garbage", name="x.json.gz")
    for content in (pack(packed), b"", data):
        with pytest.raises(Unreadable):
            read(content, name="x.json.gz")


# CSV -------------------------------------------------------------------------


def test_csv_follows_rfc_4180():
    data = (
        b'\xef\xbb\xbfid,page,n\r\n1,"see\r\n2,fake,3\r\nend",1\r\n2,"He said ""hi""",\r\n'
        b'3,C:\\temp\\,5\r\n\r\n4,"a\\""b",6\r\n'
    )
    assert fields(data, "csv") == [
        {"id": "1", "page": "see\r\n2,fake,3\r\nend", "n": "1"},
        {"id": "2", "page": 'He said "hi"', "n": ""},
        {"id": "3", "page": "C:\\temp\\", "n": "5"},
        {"id": "4", "page": 'a\\"b', "n": "6"},
    ]


def test_rows_that_do_not_match_the_header_are_set_aside_with_their_text():
    actual = read(b'a,b\n1\n1,2\n1,2,3\n"x"y,2\n1,"open\n3,4\n', "csv")
    assert [(row["raw"], row["problem"]) for row in actual] == [
        ("1", "ragged_row"),
        ("1,2", None),
        ("1,2,3", "ragged_row"),
        ('"x"y,2', "malformed_record"),
        ('1,"open\n3,4', "malformed_record"),
    ]


def test_delimiter_line_ends_and_repeated_headers_are_recognised():
    for delimiter in ",;\t|":
        data = f'"a"{delimiter}b\n1{delimiter}2\n'.encode()
        assert fields(data, "csv") == [{"a": "1", "b": "2"}]
        assert fields(data.replace(b"\n", b"\r"), "csv") == [{"a": "1", "b": "2"}]
        joined = b"\xef\xbb\xbf" + data + b"\xef\xbb\xbf" + data
        assert fields(joined, "csv") == [{"a": "1", "b": "2"}] * 2
    assert fields(b" a , b\n 1 ,2", "csv") == [{"a": " 1 ", "b": "2"}]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n \n",
        b"\xef\xbb\xbf",
        b"a,b,a\n1,2,3",
        b'"a,b\n1,2',
        b"gr\xf6\xdfe,b\n1,2",
        b"a,b\n1,K\xf6ln",
        b'{"a":1}\n',
        b"<html>\n",
        b"PAR1\x15\x04",
        b"a\0b,c\n1,2",
    ],
)
def test_csv_file_without_header_or_in_unknown_encoding_is_unreadable(data):
    with pytest.raises(Unreadable):
        read(data, "csv")


def test_misplaced_quote_sets_aside_its_line_or_possible_cell():
    far = b"".join(b"%d,z\n" % n for n in range(300))
    actual = read(b'a,b\n1,"x"y"\n' + far, "csv")
    assert [row["problem"] for row in actual] == ["malformed_record", *[None] * 300]
    for text in (b'"a"x,u1,"\nb,u2,hello\n"', b'a, "x\nb,fake\nend"'):
        actual = read(b"one,two,three\n" + text + b"\nc,u3,z\n", "csv")
        assert [(row["raw"], row["problem"]) for row in actual] == [
            (text.decode(), "malformed_record"),
            ("c,u3,z", None),
        ]
    assert problems(b'a,b\n5" x 7",2\n3,4\n', "csv") == ["malformed_record", None]


def test_sep_line_of_excel_sets_the_delimiter():
    actual = read(b'sep=;\r\na;b\r\n"1;2";3\r\n', "csv")
    assert [row["record"] for row in actual] == [{"a": "1;2", "b": "3"}]
    assert records_of(formats.parse_kept(['"1;2";3'], "sep=;\na;b")) == [({"a": "1;2", "b": "3"}, None)]
    assert fields(b"\xef\xbb\xbf\xef\xbb\xbfa\tb\n\t\n1\t2\n", "csv") == [{"a": "", "b": ""}, {"a": "1", "b": "2"}]


# Parquet ---------------------------------------------------------------------


def parquet(columns: dict, **options) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink, **options)
    return sink.getvalue()


def test_parquet_values_are_converted_to_the_same_text_as_in_json_and_csv():
    moment = datetime.datetime(2026, 11, 20, 10, 0, 0, 123456, tzinfo=datetime.UTC)
    nanos = pa.array([1795168800123456789], pa.timestamp("ns", "Europe/Berlin"))
    columns = {
        "us": pa.array([moment], pa.timestamp("us", "UTC")),
        "ns": nanos,
        "naive": nanos.cast(pa.timestamp("ns")),
        "old": pa.array([-1], pa.timestamp("ns", "UTC")),
        "u64": pa.array([2**64 - 1], pa.uint64()),
        "dec": pa.array([Decimal("1234567890123456789.10")], pa.decimal128(22, 2)),
        "f16": pa.array([np.float16(1.5)]),
        "nan": [float("nan")],
        "t": pa.array([1_000_000_001], pa.time64("ns")),
        "d": [datetime.date(2026, 11, 20)],
        "null": pa.nulls(1),
        "b": [b"\xff"],
        "flag": [True],
        "dict": pa.array(["x"]).dictionary_encode(),
        "list": [[1, None]],
        "struct": [{"value": 2.5, "at": moment, "dec": Decimal("1.50")}],
        "map": pa.array([[("value", 3.5)]], pa.map_(pa.string(), pa.float64())),
        "we`ird (name)": ["{"],
    }
    (row,) = read(parquet(columns), "parquet")
    actual = row["record"]
    assert (
        actual["us"] == actual["ns"] == "2026-11-20 10:00:00.123456Z"
        and actual["naive"] == "2026-11-20 10:00:00.123456"
    )
    assert actual["old"] == "1969-12-31 23:59:59.999999Z"
    assert (actual["u64"], actual["dec"], actual["f16"], actual["nan"]) == (
        "18446744073709551615",
        "1234567890123456789.10",
        "1.5",
        "nan",
    )
    assert (actual["t"], actual["d"], actual["null"], actual["b"], actual["flag"], actual["dict"]) == (
        "00:00:01.000000",
        "2026-11-20",
        None,
        "/w==",
        "true",
        "x",
    )
    assert actual["list"] == "[1,null]" and actual["map"] == '{"value":3.5}'
    assert actual["struct"] == '{"value":2.5,"at":"2026-11-20T10:00:00.123456+00:00","dec":1.50}'
    assert row["not_json"] == ["we`ird (name)"] and row["raw"] is None


def test_int96_timestamps_and_many_row_groups_are_read():
    moments = [datetime.datetime(year, 1, 1) for year in (1, 2026, 9999)]
    for options in ({"use_deprecated_int96_timestamps": True}, {"row_group_size": 1}):
        data = parquet({"at": pa.array(moments, pa.timestamp("us")), "n": [1, 2, 3]}, **options)
        assert [(f["at"][:4], f["n"]) for f in fields(data, "parquet")] == [("0001", "1"), ("2026", "2"), ("9999", "3")]


def test_invalid_parquet_file_is_unreadable_and_an_empty_one_has_no_records():
    data = parquet({"a": [1]})
    for broken in (b"", data[:-4], data[: len(data) // 2], b'{"a":1}'):
        with pytest.raises(Unreadable, match="cannot be read as Parquet"):
            read(broken, "parquet")
    assert read(parquet({"a": pa.array([], pa.int64())}), "parquet") == []
    assert problems(parquet({"a": [1], "A": [2]}), "parquet") == ["ambiguous_fields"]


def test_extreme_parquet_value_affects_only_its_row():
    far = pa.array([0, 2**62], pa.timestamp("ms"))
    assert [f["t"] for f in fields(parquet({"t": far}), "parquet")] == ["1970-01-01 00:00:00.000000", str(2**62)]
    least = pa.array([-(2**63) + 1], pa.timestamp("ns"))
    assert fields(parquet({"t": least}), "parquet")[0]["t"] == "1677-09-21 00:12:43.145224"
    nested = pa.StructArray.from_arrays([pa.array([0, 2**62], pa.timestamp("us"))], ["at"])
    assert problems(parquet({"s": nested}), "parquet") == [None, "unreadable_value"]
    broken = pa.StringArray.from_buffers(2, pa.py_buffer(np.array([0, 1, 2], np.int32)), pa.py_buffer(b"a\xff"))
    first, second = read(parquet({"s": broken}), "parquet")
    assert (first["record"], first["problem"]) == ({"s": "a"}, None)
    assert (second["record"], second["problem"]) == ({"s": "base64:/w=="}, "invalid_utf8")


def test_json_in_parquet_is_parsed_in_every_text_type():
    text = pa.array(['{"value":1} trailing', '{"value":1}'])
    for column in (text, text.cast(pa.large_string()), text.dictionary_encode()):
        assert [row["not_json"] for row in read(parquet({"p": column}), "parquet")] == [["p"], None]
    twice = pa.array([[("value", "1"), ("value", "2")], [("value", "1")]], pa.map_(pa.string(), pa.string()))
    assert [row["not_json"] for row in read(parquet({"p": twice}), "parquet")] == [["p"], None]


def test_wide_parquet_files_are_read_in_small_batches():
    table = {f"column_with_a_rather_long_name_{n:04d}": pa.array(range(9000)) for n in range(400)}
    data, reading = parquet(table), formats.Reading()
    batches = list(formats.read(io.BytesIO(data), "parquet", reading))
    assert reading.records == 9000 and max(batch.nbytes for batch in batches) < 100 << 20


# Any files -------------------------------------------------------------------

TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
NUMBER = st.one_of(
    st.integers(-(10**25), 10**25).map(str),
    st.decimals(allow_nan=False, allow_infinity=False, places=3).map(lambda n: format(n, "f")),
    st.sampled_from(["1e30", "-0.0", "1E-7", "12345678901234567890.123456789"]),
)
NAME = st.text("abcdé_$. ", min_size=1, max_size=4)


@st.composite
def good_lines(draw) -> tuple[bytes, dict[str, str | None]]:
    """A JSON object as a line, and its fields as text."""
    expected, parts, seen = {}, [], set()
    for name in draw(st.lists(NAME, min_size=0, max_size=5)):
        if name.lower() in seen:
            continue
        seen.add(name.lower())
        kind = draw(st.sampled_from(["text", "number", "null", "nested"]))
        if kind == "text":
            value = draw(TEXT)
            parts.append(f"{json.dumps(name)}:{json.dumps(value, ensure_ascii=draw(st.booleans()))}")
        elif kind == "null":
            value = None
            parts.append(f"{json.dumps(name)} : null")
        elif kind == "number":
            value = draw(NUMBER)
            parts.append(f"{json.dumps(name)}:{value}")
        else:
            value = f'{{"n":[{draw(NUMBER)}]}}'
            parts.append(f"{json.dumps(name)}:{value}")
        expected[name] = value
    return ("{" + ", ".join(parts) + "}").encode(), expected


BAD_LINES = st.one_of(
    st.binary(min_size=1, max_size=30).map(lambda b: b.replace(b"\n", b"")),
    good_lines().map(lambda pair: pair[0][:-1]),
    st.tuples(good_lines(), good_lines()).map(lambda pair: pair[0][0] + pair[1][0]),
    good_lines().map(lambda pair: pair[0] + b" x"),
)


@settings(max_examples=700, deadline=None)
@given(
    st.lists(st.one_of(good_lines(), BAD_LINES.map(lambda line: (line, None))), max_size=8),
    st.sampled_from([b"\n", b"\r\n"]),
    st.sampled_from([bytes, gzip.compress, zstandard.compress]),
)
def test_each_json_line_is_a_record_with_its_full_text(lines, end, pack):
    # In front stands a record, so that no text is one document.
    lines = [(b'{"first":1}', {"first": "1"}), *lines]
    actual = read(pack(end.join(line for line, _ in lines)))
    kept = [(line, wanted) for line, wanted in lines if line.strip(b" \t\r\n\x0b\x0c") not in (b"", b"\xef\xbb\xbf")]
    kept = [(line.removeprefix(b"\xef\xbb\xbf").rstrip(b"\r"), wanted) for line, wanted in kept]
    assert len(actual) == len(kept)
    for row, (line, wanted) in zip(actual, kept, strict=True):
        encoded = row["problem"] == "invalid_utf8"
        assert row["raw"] == ("base64:" + base64.b64encode(line).decode() if encoded else line.decode())
        if wanted is not None:
            assert row["record"] == wanted
    again = records_of(formats.parse_kept([row["raw"] for row in actual], ""))
    assert again == [(row["record"], row["problem"]) for row in actual]


def records_of(batch: pa.RecordBatch) -> list[tuple]:
    return [(None if row["record"] is None else dict(row["record"]), row["problem"]) for row in batch.to_pylist()]


@settings(max_examples=600, deadline=None)
@given(
    st.lists(
        st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8), min_size=3, max_size=3),
        max_size=6,
    ),
    st.sampled_from(",;\t|"),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
@example([["", "", ""]], ",", "\n", True, "utf-8")
def test_csv_cells_survive_a_round_trip(cells, delimiter, end, quoted, encoding):
    text = io.StringIO()
    quoted |= any("\r" in cell for row in cells for cell in row)  # Python's writer leaves it bare
    quoting = csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL
    writer = csv.writer(text, delimiter=delimiter, lineterminator=end, quoting=quoting)
    names = ["one", "two", "three"]
    writer.writerows([names, *cells])
    actual = read(text.getvalue().encode(encoding), "csv")
    # A byte order mark in front of a row is one that `cat` left, unless it stands in quotes.
    expected = [row for row in cells if row != names]
    if not quoted:
        expected = [
            [row[0].removeprefix("\ufeff"), *row[1:]] if not needs_quotes(row[0], delimiter) else row
            for row in expected
        ]
    assert [list((row["record"] or {}).values()) for row in actual] == [row for row in expected if row != names]
    head = next(iter(text.getvalue().splitlines()))
    assert records_of(formats.parse_kept([row["raw"] for row in actual], head)) == [
        (row["record"], row["problem"]) for row in actual
    ]


def needs_quotes(cell: str, delimiter: str) -> bool:
    return any(letter in cell for letter in (delimiter, '"', "\r", "\n"))


@settings(max_examples=700, deadline=None)
@given(
    st.sampled_from(["json", "csv", "parquet"]),
    st.lists(
        st.one_of(
            st.binary(max_size=40),
            good_lines().map(lambda pair: pair[0]),
            st.sampled_from(
                [
                    b"\n",
                    b"a,b\n",
                    b'"',
                    b"[",
                    b"]",
                    b",",
                    b"{",
                    b"\xef\xbb\xbf",
                    b"\xff\xfe",
                    b"\x1f\x8b\x08\0",
                    b"\x28\xb5\x2f\xfd",
                    gzip.compress(b'{"a":1}\n'),
                    zstandard.compress(b"a,b\n1,2\n"),
                    parquet({"a": [1, None], "b": ["x", "{"]}),
                    parquet({"a": pa.array([1], pa.timestamp("ns"))})[:90],
                    b'{"a":{"a":1,"a":2}}\n',
                ]
            ),
        ),
        max_size=7,
    ).map(b"".join),
    st.sampled_from(["", "x.gz"]),
)
def test_any_bytes_are_read_fully_or_unreadable_and_deterministic(kind, data, name):
    outcomes = []
    for _ in range(2):
        try:
            outcomes.append(read(data, kind, name))
        except Unreadable as error:
            outcomes.append(str(error))
    assert outcomes[0] == outcomes[1]
    assert outcomes[0] != ""
