"""Markdown, LaTeX, CSV and JSON: strangers' text stays text, and what is written reads back."""

import csv
import io
import json
import re

import pytest

from attnbench.tables import scorecard, text
from attnbench.tables.build import BUILDERS, build
from attnbench.tables.layout import FIELDS, page
from attnbench.tables.measured import Measured, Selection
from attnbench.tables.model import Cell, Part, Reported, Row, Table
from attnbench.tables.page import Page
from attnbench.tables.quantities import PARAMETERS

HOSTILE = 'a|b & 50% $x$ #1 _u_ {c} \\d ~ ^ <b> *s* [l](u) "q"\n\x1b[31mred'


@pytest.fixture(scope="module")
def hostile() -> Page:
    row = Row(HOSTILE, (HOSTILE,), (Cell(PARAMETERS, (Reported("28.9", HOSTILE, note=HOSTILE),)),))
    return page(Table("hostile", HOSTILE, (Part((HOSTILE,), (PARAMETERS,), (row,), HOSTILE),), (HOSTILE,)))


def read(written: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(written)))


def test_markdown_shows_hostile_text_as_it_is(hostile: Page) -> None:
    written = text.markdown([hostile])
    assert "\x1b" not in written
    assert "<b>" not in written
    tables = [line for line in written.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in tables} == {5}
    assert r"a\|b &amp; 50% \$x\$ \#1 \_u\_ \{c\} \\d \~ ^ &lt;b&gt; \*s\* \[l\]\(u\)" in written


def test_latex_prints_hostile_text_as_it_is(hostile: Page) -> None:
    escaped = text.escape_latex(HOSTILE)
    assert escaped.startswith(r"a\textbar{}b \& 50\% \$x\$ \#1 \_u\_ \{c\} \textbackslash{}d \textasciitilde{} ")
    assert r"\textasciicircum{} \textless{}b\textgreater{} *s* {[}l{]}(u)" in escaped
    assert "\n" not in escaped
    assert "\x1b" not in escaped
    assert escaped in text.latex([hostile])


@pytest.mark.parametrize("name", BUILDERS)
def test_latex_has_booktabs_rules_and_as_many_cells_as_columns(name: str, measured: Measured) -> None:
    written = text.latex([page(build(name, measured))])
    assert written.startswith("% needs \\usepackage{booktabs,longtable}\n")
    parts = re.findall(r"\\begin\{longtable\}\{([lr]+)\}(.*?)\\end\{longtable\}", written, flags=re.DOTALL)
    assert len(parts) == len(build(name, measured).parts)
    for columns, body in parts:
        assert all(rule in body for rule in ("\\toprule", "\\midrule", "\\bottomrule"))
        for line in body.splitlines():
            if line.endswith(" \\\\"):
                spanned = sum(int(width) - 1 for width in re.findall(r"\\multicolumn\{(\d+)\}", line))
                assert len(re.findall(r"(?<!\\)&", line)) + 1 + spanned == len(columns)


@pytest.mark.parametrize("name", BUILDERS)
def test_csv_reads_back_to_the_records(name: str, measured: Measured) -> None:
    found = page(build(name, measured))
    lines = read(text.to_csv([found]))
    assert len(lines) == len(found.records)
    for line, record in zip(lines, found.records, strict=True):
        assert tuple(line) == FIELDS
        assert None not in line.values()
        for field, value in record.items():
            if isinstance(value, float):
                assert float(line[field]) == pytest.approx(value, rel=1e-9)
            elif value is not None:
                assert line[field] == value


def test_csv_has_words_where_values_are_absent(measured: Measured) -> None:
    lines = read(text.to_csv([page(build("imagenet", measured))]))
    large = next(line for line in lines if line["model"] == "swin_large" and line["quantity"] == "params")
    assert (large["reported"], large["source"], large["verdict"]) == ("not printed", "not printed", "not printed")
    assert float(large["measured"]) == 196.532476
    cvt = next(line for line in lines if line["model"] == "cvt_13")
    assert (cvt["measured"], cvt["verdict"]) == ("not measured", "not measured")
    assert all(line[field] for line in lines for field in FIELDS)


def test_hostile_text_survives_csv_and_json(hostile: Page) -> None:
    (line,) = read(text.to_csv([hostile]))
    assert (line["row"], line["source"], line["note"]) == (HOSTILE, HOSTILE, HOSTILE)
    (found,) = json.loads(text.to_json([hostile]))
    assert found["records"][0]["source"] == HOSTILE


def test_all_tables_and_the_scorecard_are_one_csv(measured: Measured) -> None:
    tables = [build(name, measured) for name in BUILDERS]
    found = [*map(page, tables), scorecard.page(tables, measured)]
    lines = read(text.to_csv(found))
    assert {line["table"] for line in lines} == {*BUILDERS, "scorecard"}
    assert len(lines) == sum(len(each.records) for each in found)


def test_json_has_null_where_values_are_absent() -> None:
    (found,) = json.loads(text.to_json([page(build("imagenet", Measured(), Selection(("swin_tiny",))))]))
    assert found["name"] == "imagenet"
    assert {record["measured"] for record in found["records"]} == {None}
    assert {record["verdict"] for record in found["records"]} == {"not measured"}


def test_markdown_keeps_one_line_per_row_and_one_line_per_value_in_a_cell(measured: Measured) -> None:
    written = text.markdown([page(build("imagenet", measured, Selection(("swin_tiny",))))])
    (line,) = [line for line in written.splitlines() if line.startswith("| Swin-Tiny")]
    assert "| 29<br>28<br>28.3<br>28.29 |" in line
    assert "| differs<br>reproduces<br>reproduces<br>reproduces |" in line
