"use strict";
// Draws every chart of the page. Runs under a policy without eval: Vega interprets its expressions (ast).
(() => {
  // How all pictures look: colours are variables of the style sheet, so that light, dark and print just follow.
  const config = {
    aria: false,
    background: "transparent",
    font: "system-ui, sans-serif",
    view: { stroke: null },
    axis: {
      labelColor: "var(--muted)",
      titleColor: "var(--muted)",
      titleFontWeight: "normal",
      labelFontSize: 12,
      titleFontSize: 13,
      titlePadding: 8,
      gridColor: "var(--line)",
      domainColor: "var(--line)",
      tickColor: "var(--line)",
      tickCount: 6,
    },
    legend: {
      labelColor: "var(--text)",
      labelFontSize: 13,
      symbolOpacity: 1,
      columnPadding: 16,
      orient: "top",
    },
    text: { color: "var(--text)", fontSize: 12 },
  };
  const { points, charts } = JSON.parse(document.getElementById("chart-data").textContent);
  const names = Object.keys(points);
  const length = names.length ? points[names[0]].length : 0;
  const dots = Array.from({ length }, (_, i) => Object.fromEntries(names.map((name) => [name, points[name][i]])));
  const options = {
    actions: false,
    ast: true,
    config,
    defaultStyle: false,
    mode: "vega-lite",
    renderer: "svg",
    tooltip: { theme: "page", disableDefaultStyle: true },
  };
  const draw = async (name, spec) => {
    const home = document.getElementById("chart-" + name);
    try {
      await vegaEmbed(home, { ...spec, datasets: { ...spec.datasets, points: dots } }, options);
      // The place has a label for the whole picture; its marks would be read one by one, without names.
      for (const part of home.children) part.setAttribute("aria-hidden", "true");
    } catch (error) {
      home.textContent = "This chart could not be drawn: " + error.message;
    }
  };
  Promise.all(Object.entries(charts).map(([name, spec]) => draw(name, spec))).then(() => {
    document.documentElement.dataset.drawn = "yes";
  });
})();
