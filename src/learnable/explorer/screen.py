"""The first screen: which charts stand where, with which words. Plain JSON in the form that embedding-atlas keeps."""

from collections.abc import Iterator
from typing import Any

from learnable.explorer.sheet import NEAR, Sheet, X, Y

Chart = dict[str, Any]
Tile = tuple[str, Chart, tuple[int, int, int, int]]
"""A chart, its name before, and its place in the grid behind: from the left, from the top, width, height."""

COLUMNS, ROWS = 24, 18
"""Grid of a screen; what lies below the last row is scrolled to."""
DRAWN_ROWS = 20_000
"""Up to so many examples are drawn as dots without a graphics card; more as a grid of counts."""
CELLS = 50
"""Along each side of that grid."""
COLOURS = {"domain": ["no", "yes"], "range": ["#94a3b8", "#dc2626"]}
# Texts are shown as they are: with their line breaks, and no part of them taken as HTML or Markdown; code in even columns.
_IS_CODE = '{% if value contains "```" %}; font-family: monospace{% endif %}'
AS_IT_IS = {
    "renderer": "liquid-template",
    "options": {"template": f'<div style="white-space: pre-wrap{_IS_CODE}">{{{{ value | escape }}}}</div>'},
    "display": "full",
}
HELP = (
    "Drag over a chart or click a bar to filter: the other charts, the table and the download (arrow at the top) "
    "follow; Esc clears. Click a row to read it whole. The magnifier searches all text."
)
HIDDEN = ("question", "answer", "undefined", "row", X, Y)
"""Columns that no card and no list needs; the download has them."""
# Bars count the kind of a reason; which example a near-duplicate is like stands in the table.
_KIND_OF_REASON = "coalesce(regexp_replace(reason, '^(near-duplicate|not among the best|not picked) (of|by) .*$', '\\1'), '(chosen)')"


def first_screen(sheet: Sheet) -> dict[str, Any]:
    """Return the state in which the page opens."""
    tiles = [*_overview(sheet), *_below(sheet)]
    charts = {name: chart for name, chart, _ in tiles}
    sides = ("x", "y", "width", "height")
    places = {name: dict(zip(sides, place, strict=True)) for name, _, place in tiles}
    layouts: dict[str, Chart] = {
        "overview": {
            "type": "dashboard",
            "name": "Overview",
            "chartIds": list(places),
            "grids": {f"{COLUMNS}x{ROWS}": {"placements": places}},
        }
    }
    beside = [name for name in ("chosen", "chosen by", "reason", "source", "filters") if name in charts]
    if sheet.text:
        charts["cards"] = _rows(sheet, viewMode="cards", pageSize=20)
        layouts["read"] = {"type": "list", "name": "Read", "chartIds": ["cards", *beside]}
    for name, cloud in _clouds(sheet):
        charts[name] = cloud
        layouts[name] = {"type": "list", "name": cloud["title"], "chartIds": [name, "table", *beside]}
    styles: dict[str, Chart] = {name: {"display": "hidden"} for name in HIDDEN}
    styles |= {sheet.text: AS_IT_IS} if sheet.text else {}
    return {
        "charts": charts,
        "layouts": layouts,
        "layoutOrder": list(layouts),
        "currentLayout": "overview",
        "columnStyles": {name: style for name, style in styles.items() if name in sheet.frame.columns},
    }


def _overview(sheet: Sheet) -> Iterator[Tile]:
    """Yield what stands on the first screen."""
    left, has_choice, texts = 0, sheet.has("chosen"), sheet.text is not None
    if sheet.has("loss_before", "loss_after"):
        title = "loss before and after training, nats per token"
        yield "plane", _dots(sheet, "loss_before", "loss_after", title), (0, 0, left := 7, 9)
    elif sheet.scores and sheet.has("response_tokens"):
        title = f"response tokens and {sheet.scores[0]}"
        yield "plane", _dots(sheet, "response_tokens", sheet.scores[0], title), (0, 0, left := 7, 9)
    if sheet.scores:
        yield "score", _histogram(sheet, sheet.scores[0]), (left, 0, 12 - left, 5)
    if length := next((name for name in ("response_tokens", "tokens") if sheet.has(name)), None):
        yield "length", _histogram(sheet, length), (left, 5, 12 - left, 4)
    if has_choice:
        yield "chosen", _bars("chosen") | {"order": ["yes", "no"]}, (12, 0, 6, 3)
    if sheet.has("source"):
        bars = {"y": {"field": "source"}, "x": {"aggregate": "count"}}
        by_source = _counts(sheet, "source", bars, brush="y") if has_choice else _bars("source")
        yield "source", by_source, (12, 3, 6, 6) if has_choice else (12, 0, 6, 9)
    about = {"type": "markdown", "title": sheet.title, "content": f"{sheet.about}\n\n{HELP}"}
    yield "about", about, (18, 0, 6, 5)
    if "reason" in sheet.frame.columns:
        yield "reason", _bars("reason", field={"sql": _KIND_OF_REASON}), (18, 5, 6, 4)
    elif "chosen_by" in sheet.frame.columns:
        yield "chosen by", _bars("chosen_by", is_list=True), (18, 5, 6, 4)
    else:
        yield "filters", _conditions(sheet), (18, 5, 6, 4)
    names = sheet.frame.columns
    styles = {name: AS_IT_IS for name in ("question", "answer") if name in names}
    shown = [name for name in names if name != sheet.text or name == "source"]
    yield "table", _rows(sheet, columns=shown, columnStyles=styles), (0, 9, 17 if texts else COLUMNS, 9)
    if texts:
        title = f"{sheet.text} of the row that you click"
        yield "reading", {"type": "content-viewer", "title": title, "field": sheet.text}, (17, 9, 7, 9)


def _below(sheet: Sheet) -> Iterator[Tile]:
    """Yield what is scrolled to: filters, the map, and all other figures, four in a row."""
    charts: list[tuple[str, Chart]] = []
    if {"reason", "chosen_by"} & set(sheet.frame.columns):
        charts.append(("filters", _conditions(sheet)))
    if sheet.map:
        charts.append(("map dots", _dots(sheet, X, Y, sheet.map)))
    others = [*sheet.scores[1:], "loss_before", "loss_after", "loss_alone", "tokens"]
    charts += [(f"figure {name}", _histogram(sheet, name)) for name in others if sheet.has(name)]
    for number, (name, chart) in enumerate(charts):
        yield name, chart, (number % 4 * 6, ROWS + number // 4 * 7, 6, 7)


def _bars(title: str, *, field: Any = None, is_list: bool = False) -> Chart:
    data = {"field": field or title, "isList": is_list}
    return {"type": "count-plot", "title": title, "data": data, "categoryWidth": 120}


def _histogram(sheet: Sheet, name: str) -> Chart:
    """Return counts along a number."""
    bars = {"x": {"field": name}, "y": {"aggregate": "count"}}
    return _counts(sheet, name, bars, brush="x") | {"widgets": [{"type": "scale.type", "channel": "x"}]}


def _counts(sheet: Sheet, title: str, bars: Chart, *, brush: str) -> Chart:
    """Return bars of counts: all in a faded colour, over them what the filters leave, the chosen in red."""
    colour = {"color": {"field": "chosen"}} if sheet.has("chosen") else {}
    return {
        "title": title,
        "layers": [
            {"mark": "bar", "style": {"fillColor": "$markColorGrayFade"}, "encoding": bars},
            {"mark": "bar", "filter": "$filter", "encoding": bars | colour},
        ],
        "scale": {"color": COLOURS} if colour else {},
        "selection": {"brush": {"encoding": brush}},
    }


def _dots(sheet: Sheet, x: str, y: str, title: str) -> Chart:
    """Return a dot for each example, the chosen ones in red and on top; cells with counts where they are too many."""
    axes = {"x": x, "y": y}
    encoding: Chart = {axis: {"field": name} for axis, name in axes.items()}
    scale: Chart = {
        axis: {"domain": [sheet.frame[name].min(), sheet.frame[name].max()]} for axis, name in axes.items()
    }
    layer: Chart = {"filter": "$filter", "encoding": encoding}
    if sheet.frame.height > DRAWN_ROWS:
        title += "; examples in each cell"
        encoding = {axis: value | {"bin": {"desiredCount": CELLS}} for axis, value in encoding.items()}
        layer |= {"mark": "rect", "encoding": encoding | {"color": {"aggregate": "count"}}}
    else:
        there = " AND ".join(f"{_quoted(name)} IS NOT NULL" for name in (x, y))
        order = ""
        if sheet.has("chosen"):
            order = " ORDER BY rank DESC NULLS FIRST"
            encoding["color"], scale["color"] = {"field": "chosen"}, COLOURS
        rows = {"from": {"sql": f"SELECT * FROM $table WHERE {there}{order}"}}
        layer |= {"mark": "point", "size": 12, "style": {"fillOpacity": 0.7}} | rows
    return {"title": title, "layers": [layer], "scale": scale, "selection": {"brush": {"encoding": "xy"}}}


def _clouds(sheet: Sheet) -> Iterator[tuple[str, Chart]]:
    """Yield the scatters with a text under each dot; they need a browser with WebGPU."""
    about = {"text": sheet.text, "category": "chosen" if sheet.has("chosen") else "source"}
    if sheet.has("loss_before", "loss_after"):
        axes = {"x": "loss_before", "y": "loss_after"}
        yield "losses", {"type": "embedding", "title": "Losses", "data": axes | about}
    if sheet.map:
        axes = {"x": X, "y": Y, "neighbors": NEAR}
        yield "map", {"type": "embedding", "title": sheet.map, "data": axes | about}


def _conditions(sheet: Sheet) -> Chart:
    """Return conditions that people ask for; more can be written on the page."""
    asked: dict[str, str] = {}
    if sheet.by and sheet.has("chosen"):
        by, (share, side) = _quoted(sheet.by), (0.05, "<=") if sheet.by in sheet.lowest else (0.95, ">=")
        limit = f"(SELECT quantile_cont({by}, {share}) FROM dataset)"
        asked[f"best 5% by {sheet.by}, not chosen"] = f"chosen = 'no' AND {by} {side} {limit}"
    if sheet.has("loss_before", "loss_after"):
        asked["loss rose in training"] = "loss_after > loss_before"
    if sheet.has("truncated") and "yes" in sheet.frame["truncated"]:
        asked["truncated"] = "truncated = 'yes'"
    if sheet.has("undefined"):
        asked["without a score"] = "undefined IS NOT NULL"
    items = [{"name": name, "predicate": predicate} for name, predicate in asked.items()]
    return {"type": "predicates", "title": "SQL filters", "items": items}


def _rows(sheet: Sheet, **more: Any) -> Chart:
    """Return the examples: the chosen first, in the order chosen, then the others by score."""
    order = {"rank": "ascending"} if sheet.has("rank") else {}
    order |= {name: "ascending" if name in sheet.lowest else "descending" for name in sheet.scores[:1]}
    sort = [{"column": name, "direction": direction} for name, direction in order.items()]
    return {"type": "instances", "title": "examples", "sort": sort} | more


def _quoted(column: str) -> str:
    return '"' + column.replace('"', '""') + '"'
