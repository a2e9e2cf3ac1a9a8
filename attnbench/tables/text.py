"""Pages as Markdown, LaTeX, CSV and JSON."""

import csv
import io
import json
import re
from collections.abc import Iterable, Sequence
from itertools import groupby, zip_longest
from typing import Final

from attnbench.report.markdown import escape as escape_markdown
from attnbench.report.rows import one_line
from attnbench.tables.model import NOT_MEASURED, NOT_PRINTED
from attnbench.tables.page import Column, Grid, Page

# Words for absent values: an empty field could be read as zero.
_ABSENT: Final = {"reported": NOT_PRINTED, "source": NOT_PRINTED, "kind": NOT_PRINTED, "measured": NOT_MEASURED}
_LATEX: Final = {
    **{char: f"\\{char}" for char in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "{''}",
    "[": "{[}",  # after a line's end, a bracket would be read as its optional argument
    "]": "{]}",
}


def markdown(pages: Sequence[Page]) -> str:
    """Return the pages as Markdown: one line per row, the values of several sources in one cell."""
    return "\n".join(line for page in pages for line in _markdown(page))


def latex(pages: Sequence[Page]) -> str:
    """Return the pages as LaTeX with booktabs' rules, breaking over pages of paper."""
    head = "% needs \\usepackage{booktabs,longtable}\n"
    return head + "\n".join(line for page in pages for line in _latex(page))


def to_csv(pages: Sequence[Page]) -> str:
    """Return one line per printed value; words where a value is absent. Pages of other fields follow a blank line."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for index, (fields, group) in enumerate(groupby(pages, key=lambda page: page.fields)):
        text.write("\n" if index else "")
        writer.writerow(fields)
        for page in group:
            writer.writerows([_flat(field, record[field]) for field in fields] for record in page.records)
    return text.getvalue()


def to_json(pages: Sequence[Page]) -> str:
    """Return an array with the name, title, records and notes of every page; null where a value is absent."""
    found = [
        {"name": page.name, "title": page.title, "records": list(page.records), "notes": list(page.notes)}
        for page in pages
    ]
    return json.dumps(found, allow_nan=False, indent=1, ensure_ascii=False) + "\n"


def escape_latex(text: str) -> str:
    """Return a stranger's text as one line that LaTeX prints as it is."""
    return "".join(_LATEX.get(char, char) for char in one_line(text))


def _flat(field: str, value: object) -> str:
    if value is None:
        return _ABSENT.get(field, "-")
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def _markdown(page: Page) -> Iterable[str]:
    yield f"## {escape_markdown(page.title)}\n"
    for grid in page.grids:
        if grid.caption:
            yield f"### {escape_markdown(grid.caption)}\n"
        yield _markdown_line([escape_markdown(_header(column)) for column in grid.columns])
        yield _markdown_line(["---:" if column.right else "---" for column in grid.columns])
        for row in grid.rows:
            yield _markdown_line(["<br>".join(escape_markdown(line) for line in cell) for cell in row])
        yield ""
    for note in page.notes:
        yield f"- {escape_markdown(note)}"
    yield ""


def _header(column: Column) -> str:
    group = column.group if column.group != column.header else ""
    return f"{group} {column.header}".strip()


def _markdown_line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _latex(page: Page) -> Iterable[str]:
    for index, grid in enumerate(page.grids):
        caption = ": ".join(filter(None, [page.title, grid.caption]))
        label = re.sub("[^a-z0-9]", "", page.name.lower())
        yield f"\\begin{{longtable}}{{{''.join('r' if column.right else 'l' for column in grid.columns)}}}"
        yield f"\\caption{{{escape_latex(caption)}}}\\label{{tab:{label}{index or ''}}}\\\\"
        yield "\\toprule"
        yield from _latex_head(grid)
        yield "\\midrule\n\\endhead\n\\bottomrule\n\\endfoot"
        for row in grid.rows:
            for cells in zip_longest(*row, fillvalue=""):  # one line per printed value
                yield f"{' & '.join(escape_latex(cell) for cell in cells)} \\\\"
        yield "\\end{longtable}"
    yield from (f"\\noindent {escape_latex(note)}\\par" for note in page.notes)
    yield ""


def _latex_head(grid: Grid) -> Iterable[str]:
    groups = [list(found) for _, found in groupby(grid.columns, key=lambda column: column.group)]
    wide = [group[0].group != "" and len(group) > 1 for group in groups]
    if not any(wide):
        yield f"{' & '.join(escape_latex(_header(column)) for column in grid.columns)} \\\\"
        return
    cells: list[str] = []
    rules: list[str] = []
    for group, spans in zip(groups, wide, strict=True):
        start = sum(len(earlier) for earlier in groups[: groups.index(group)]) + 1
        if spans:
            cells.append(f"\\multicolumn{{{len(group)}}}{{c}}{{{escape_latex(group[0].group)}}}")
            rules.append(f"\\cmidrule(lr){{{start}-{start + len(group) - 1}}}")
        else:
            cells += [""] * len(group)
    yield f"{' & '.join(cells)} \\\\"
    yield " ".join(rules)
    yield f"{' & '.join(escape_latex(column.header) for column in grid.columns)} \\\\"
