"use strict";
// Draws every chart of the page. Runs under a policy without eval: Vega interprets its expressions (ast).
(() => {
  const { config, points, charts } = JSON.parse(document.getElementById("chart-data").textContent);
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
