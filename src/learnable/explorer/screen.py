"""The first screen: which charts stand where, with which words. Plain JSON in the form that embedding-atlas keeps."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from learnable.explorer.sheet import Sheet

Chart = dict[str, Any]

COLUMNS, ROWS = 24, 18
"""Grid of a screen; what lies below the last row is scrolled to."""
DRAWN_ROWS = 20_000
"""Up to so many examples are drawn as dots without a graphics card; more as a grid of counts."""
CELLS = 50
"""Along each side of that grid."""
RED, GREY = "#dc2626", "#94a3b8"
COLOURS = {"domain": ["no", "yes"], "range": [GREY, RED]}
# Texts are shown as they are: with their line breaks, and no part of them taken as HTML or Markdown.
AS_IT_IS = {
    "renderer": "liquid-template",
    "options": {"template": '<div style="white-space: pre-wrap">{{ value | escape }}</div>'},
}
HELP = (
    "Drag over a chart or click a bar to filter: the other charts, the table and the download (arrow at the top) "
    "follow; Esc clears. Click a row to read it whole. The magnifier searches all text."
)
HIDDEN = ("question", "answer", "undefined", "row", "map_x", "map_y")
"""Columns that no card and no list needs; the download has them."""
# Bars count the kind of a reason; which example a near-duplicate is like stands in the table.
_KIND_OF_REASON = "coalesce(regexp_replace(reason, '^(near-duplicate|not among the best|not picked) (of|by) .*$', '\\1'), '(chosen)')"


@dataclass(frozen=True)
class Tile:
    """A chart and its place in the grid."""

    name: str
    chart: Chart
    x: int
    y: int
    width: int
    height: int


def first_screen(sheet: Sheet) -> dict[str, Any]:
    """Return the state in which the page opens."""
    tiles = list(_overview(sheet))
    charts = {tile.name: tile.chart for tile in tiles}
    layouts: dict[str, dict[str, Any]] = {"overview": _dashboard("Overview", tiles)}
    beside = [name for name in ("chosen", "chosen by", "reason", "source", "filters") if name in charts]
    if sheet.text:
        charts["cards"] = _cards(sheet)
        layouts["read"] = _list("Read", ["cards", *beside])
    for name, cloud in _clouds(sheet):
        charts[name] = cloud
        layouts[name] = _list(cloud["title"], [name, "table", *beside])
    return {
        "charts": charts,
        "layouts": layouts,
        "layoutOrder": list(layouts),
        "currentLayout": "overview",
        "columnStyles": _styles(sheet),
    }


def _dashboard(name: str, tiles: Sequence[Tile]) -> dict[str, Any]:
    places = {
        each.name: {"x": each.x, "y": each.y, "width": each.width, "height": each.height} for each in tiles
    }
    grids = {f"{COLUMNS}x{ROWS}": {"placements": places}}
    return {"type": "dashboard", "name": name, "chartIds": [tile.name for tile in tiles], "grids": grids}


def _list(name: str, charts: Sequence[str]) -> dict[str, Any]:
    return {"type": "list", "name": name, "chartIds": list(charts)}


def _overview(sheet: Sheet) -> Iterator[Tile]:
    """Yield what stands on the first screen and below it."""
    left = 0
    if plane := _losses(sheet):
        yield Tile("plane", plane, 0, 0, 7, 9)
        left = 7
    if sheet.scores:
        yield Tile("score", _histogram(sheet, sheet.scores[0]), left, 0, 12 - left, 5)
    if length := next((name for name in ("response_tokens", "tokens") if sheet.has(name)), None):
        yield Tile("length", _histogram(sheet, length), left, 5, 12 - left, 4)
    if sheet.has("chosen"):
        yield Tile("chosen", _bars("chosen", order=["yes", "no"]), 12, 0, 6, 3)
    if sheet.has("source"):
        top = 3 if sheet.has("chosen") else 0
        yield Tile("source", _bars("source"), 12, top, 6, 9 - top)
    about = {"type": "markdown", "title": sheet.title, "content": f"{sheet.about}\n\n{HELP}"}
    yield Tile("about", about, 18, 0, 6, 5)
    if "reason" in sheet.frame.columns:
        yield Tile("reason", _bars({"sql": _KIND_OF_REASON}, title="reason"), 18, 5, 6, 4)
    elif "chosen_by" in sheet.frame.columns:
        yield Tile("chosen by", _bars("chosen_by", several=True), 18, 5, 6, 4)
    else:
        yield Tile("filters", _conditions(sheet), 18, 5, 6, 4)
    yield Tile("table", _table(sheet), 0, 9, 17 if sheet.text else COLUMNS, 9)
    if sheet.text:
        title = f"{sheet.text} of the row that you click"
        yield Tile("reading", {"type": "content-viewer", "title": title, "field": sheet.text}, 17, 9, 7, 9)
    yield from _below(sheet)


def _below(sheet: Sheet) -> Iterator[Tile]:
    """Yield what is scrolled to: filters, the map, and all other figures, four in a row."""
    charts: list[tuple[str, Chart]] = []
    if "reason" in sheet.frame.columns or "chosen_by" in sheet.frame.columns:
        charts.append(("filters", _conditions(sheet)))
    if sheet.map:
        charts.append(("map dots", _dots(sheet, sheet.map.x, sheet.map.y, sheet.map.name)))
    charts += [(f"figure {name}", _histogram(sheet, name)) for name in _others(sheet)]
    for number, (name, chart) in enumerate(charts):
        yield Tile(name, chart, number % 4 * 6, ROWS + number // 4 * 7, 6, 7)


def _others(sheet: Sheet) -> list[str]:
    names = [*sheet.scores[1:], "loss_before", "loss_after", "loss_alone", "tokens"]
    return [name for name in names if sheet.has(name)]


def _bars(
    field: Any, *, title: str | None = None, order: list[str] | None = None, several: bool = False
) -> Chart:
    data = {"field": field, "isList": several}
    chart: Chart = {"type": "count-plot", "title": title or str(field), "data": data, "categoryWidth": 120}
    return chart | ({"order": order} if order else {})


def _histogram(sheet: Sheet, name: str) -> Chart:
    """Return bars of counts: all in a faded colour, over them what the filters leave, the chosen in red."""
    colour = {"color": {"field": "chosen"}} if sheet.has("chosen") else {}
    bars = {"x": {"field": name}, "y": {"aggregate": "count"}}
    return {
        "title": name,
        "layers": [
            {"mark": "bar", "style": {"fillColor": "$markColorGrayFade"}, "encoding": bars},
            {"mark": "bar", "filter": "$filter", "encoding": bars | colour},
        ],
        "scale": {"color": COLOURS} if colour else {},
        "selection": {"brush": {"encoding": "x"}},
        "widgets": [{"type": "scale.type", "channel": "x"}],
    }


def _losses(sheet: Sheet) -> Chart | None:
    """Return the two losses, or a score over the length, against each other; None when there are no such columns."""
    if sheet.has("loss_before", "loss_after"):
        return _dots(sheet, "loss_before", "loss_after", "loss before and after training, nats per token")
    if sheet.scores and sheet.has("response_tokens"):
        return _dots(sheet, "response_tokens", sheet.scores[0], f"response tokens and {sheet.scores[0]}")
    return None


def _dots(sheet: Sheet, x: str, y: str, title: str) -> Chart:
    """Return a dot for each example, the chosen ones in red and on top; cells with counts where they are too many."""
    encoding: Chart = {"x": {"field": x}, "y": {"field": y}}
    brush = {"selection": {"brush": {"encoding": "xy"}}}
    # Axes that stay where they are when a filter takes dots away.
    scale = {
        axis: {"domain": [sheet.frame[name].min(), sheet.frame[name].max()]}
        for axis, name in (("x", x), ("y", y))
    }
    if sheet.frame.height > DRAWN_ROWS:
        cells = {axis: {**value, "bin": {"desiredCount": CELLS}} for axis, value in encoding.items()}
        cells["color"] = {"aggregate": "count"}
        layer: Chart = {"mark": "rect", "filter": "$filter", "encoding": cells}
        return {"title": f"{title}; examples in each cell", "layers": [layer], "scale": scale, **brush}
    there = " AND ".join(f"{_quoted(name)} IS NOT NULL" for name in (x, y))
    rows = f"SELECT * FROM $table WHERE {there}"
    layer = {
        "mark": "point",
        "filter": "$filter",
        "size": 12,
        "style": {"fillOpacity": 0.7},
        "encoding": encoding,
    }
    if not sheet.has("chosen"):
        return {"title": title, "layers": [layer | {"from": {"sql": rows}}], "scale": scale, **brush}
    layer["from"] = {"sql": f"{rows} ORDER BY rank DESC NULLS FIRST"}
    encoding["color"] = {"field": "chosen"}
    return {"title": title, "layers": [layer], "scale": {"color": COLOURS, **scale}, **brush}


def _clouds(sheet: Sheet) -> Iterator[tuple[str, Chart]]:
    """Yield the scatters with a text under each dot; they need a browser with WebGPU."""
    about = {"text": sheet.text, "category": "chosen" if sheet.has("chosen") else "source"}
    if sheet.has("loss_before", "loss_after"):
        yield (
            "losses",
            {
                "type": "embedding",
                "title": "Losses",
                "data": {"x": "loss_before", "y": "loss_after", **about},
            },
        )
    if sheet.map:
        data = {"x": sheet.map.x, "y": sheet.map.y, "neighbors": sheet.map.neighbours, **about}
        yield "map", {"type": "embedding", "title": sheet.map.name, "data": data}


def _conditions(sheet: Sheet) -> Chart:
    return {"type": "predicates", "title": "SQL filters", "items": list(_filters(sheet))}


def _filters(sheet: Sheet) -> Iterator[dict[str, str]]:
    """Yield conditions that people ask for; more can be written on the page."""
    if sheet.by and sheet.has("chosen"):
        by, (share, side) = _quoted(sheet.by), (0.05, "<=") if sheet.by in sheet.lowest else (0.95, ">=")
        limit = f"(SELECT quantile_cont({by}, {share}) FROM dataset)"
        yield {
            "name": f"best 5% by {sheet.by}, not chosen",
            "predicate": f"chosen = 'no' AND {by} {side} {limit}",
        }
    if sheet.has("loss_before", "loss_after"):
        yield {"name": "loss rose in training", "predicate": "loss_after > loss_before"}
    if sheet.has("truncated") and "yes" in sheet.frame["truncated"]:
        yield {"name": "truncated", "predicate": "truncated = 'yes'"}
    if sheet.has("undefined"):
        yield {"name": "without a score", "predicate": "undefined IS NOT NULL"}


def _table(sheet: Sheet) -> Chart:
    shown = [name for name in sheet.frame.columns if name != sheet.text or name == "source"]
    styles = {name: {**AS_IT_IS, "display": "full"} for name in ("question", "answer") if name in shown}
    return {
        "type": "instances",
        "title": "examples",
        "columns": shown,
        "sort": _order(sheet),
        "columnStyles": styles,
    }


def _cards(sheet: Sheet) -> Chart:
    return {
        "type": "instances",
        "title": "examples",
        "viewMode": "cards",
        "pageSize": 20,
        "sort": _order(sheet),
    }


def _order(sheet: Sheet) -> list[dict[str, str]]:
    """Return the chosen first, in the order chosen, then the others by score."""
    order = [{"column": "rank", "direction": "ascending"}] if sheet.has("rank") else []
    by = [(name, "ascending" if name in sheet.lowest else "descending") for name in sheet.scores[:1]]
    return order + [{"column": name, "direction": direction} for name, direction in by]


def _quoted(column: str) -> str:
    return '"' + column.replace('"', '""') + '"'


def _styles(sheet: Sheet) -> dict[str, dict[str, Any]]:
    styles: dict[str, dict[str, Any]] = {name: {"display": "hidden"} for name in HIDDEN}
    if sheet.text:
        styles[sheet.text] = {**AS_IT_IS, "display": "full"}
    return {name: style for name, style in styles.items() if name in sheet.frame.columns}
