"""A comparison as one HTML page that needs nothing else: no script, no font, no picture from elsewhere; no request leaves it."""

import base64
import re
from collections.abc import Sequence
from html import escape

from bertcraft.lab import advice
from bertcraft.lab import comparison_figures as figures
from bertcraft.lab.compare import Outcome

# The policy forbids the browser whatever the page could ask for, should a label or a file's name ever slip through as HTML.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1b1b1b; background: #fff; max-width: 62rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; line-height: 1.25; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
p, li { max-width: 46rem; overflow-wrap: anywhere; }
.answer { border-left: 4px solid #0072b2; background: #eef5fa; padding: .8rem 1rem; margin: 1rem 0; max-width: 44rem; }
table { border-collapse: collapse; }
th, td { text-align: right; padding: .3rem 1rem .3rem 0; font-variant-numeric: tabular-nums; vertical-align: bottom; }
th { font-weight: 600; font-size: .85rem; color: #444; white-space: pre-line; border-bottom: 1px solid #999; }
td { border-bottom: 1px solid #e4e4e4; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
.figures { display: flex; flex-wrap: wrap; gap: 1.5rem; }
figure { margin: 0; flex: 1 1 22rem; }
img { width: 100%; height: auto; display: block; }
figcaption, footer { font-size: .85rem; color: #444; }
footer { margin-top: 2rem; border-top: 1px solid #ccc; padding-top: .5rem; }
@media (max-width: 44rem) {
  thead { display: none; }
  table, tbody, tr, td { display: block; }
  tr { border-bottom: 1px solid #ccc; padding: .5rem 0; }
  td, td:first-child { display: flex; justify-content: space-between; gap: 1rem; border: 0; padding: .05rem 0; }
  td:first-child { font-weight: 600; }
  td:not(:first-child)::before { content: attr(data-head); color: #444; text-align: left; white-space: normal; }
  td:empty { display: none; }
}
"""


def page(title: str, facts: Sequence[str], plan: str, outcome: Outcome, end: str) -> str:
    """The page of an outcome. ``facts``: the data and the warnings about it; ``end``: what stands at the foot."""
    answer, *more = advice.advice(outcome)
    heads = advice.columns(outcome)
    rows = "".join(_row(heads, advice.cells(row)) for row in advice.rows(outcome))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{_breakable(title)}</h1>
<p class="answer">{escape(answer)}</p>
{_list(more)}
<h2>What was measured</h2>
<table>
<thead><tr>{"".join(f"<th>{escape(head)}</th>" for head in heads)}</tr></thead>
<tbody>
{rows}</tbody>
</table>
{_list(advice.remarks(outcome))}
<div class="figures">
{_figure(figures.differences(outcome), "The differences of the table with their intervals, the best on top. Blue: fine-tuned.")}
{_figure(figures.learning_curve(outcome), "Is it worth labelling more? The band is one standard deviation of the splits.")}
</div>
<p>{escape(advice.more_labels(outcome))}</p>
<h2>The data</h2>
{_list(facts)}
<h2>The plan</h2>
<p>{escape(plan)}</p>
<footer>Made by bertcraft compare. {escape(end)}</footer>
</body>
</html>
"""


def _row(heads: Sequence[str], cells: Sequence[str]) -> str:
    names = (head.replace("\n", ", ") for head in heads)
    inner = "".join(f'<td data-head="{escape(name)}">{escape(cell)}</td>' for name, cell in zip(names, cells, strict=True))
    return f"<tr>{inner}</tr>\n"


def _breakable(name: str) -> str:
    """A file's name that a narrow window may break after _, - and dots, and not only where it must."""
    return re.sub(r"([_.-])", r"\1<wbr>", escape(name))


def _list(said: Sequence[str]) -> str:
    return "<ul>\n" + "".join(f"<li>{escape(one)}</li>\n" for one in said) + "</ul>" if said else ""


def _figure(png: bytes, caption: str) -> str:
    source, said = base64.b64encode(png).decode("ascii"), escape(caption)
    return f'<figure><img alt="{said}" src="data:image/png;base64,{source}"><figcaption>{said}</figcaption></figure>'
