// Makes the page's line charts interactive with uPlot: values under the pointer, the arrow keys or a finger; dragging zooms, a double click or Escape
// goes back. Links open what is folded. In: every `figure.plot` with its values in `data-chart` (see plots.py). Without this script, and in print, the SVG in the figure stays.
"use strict";
(() => {
  const root = document.documentElement;
  const colour = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const DASHES = [[], [6, 3], [2, 3], [8, 3, 2, 3]];

  function short(value, percent) {
    if (value == null) return "\u2013";
    if (percent) return `${+(100 * value).toPrecision(3)}%`;
    for (const [limit, unit, suffix] of [[1e9, 1e9, "G"], [1e6, 1e6, "M"], [1e4, 1e3, "k"]]) {
      if (Math.abs(value) >= limit) return +(value / unit).toPrecision(3) + suffix;
    }
    return String(+value.toPrecision(4));
  }

  // uPlot's columns: x, the lines, then the edges of the bands around them.
  function columns(chart) {
    const lines = chart.series.map((line) => line.ys);
    const edges = chart.series.flatMap((line) => (line.lows.length ? [line.highs, line.lows] : []));
    return [chart.xs, ...lines, ...edges];
  }

  function options(chart, width) {
    const strokes = ["--accent", "--s1", "--s2", "--s3"].map(colour);
    const text = colour("--ink-2"), grid = { stroke: colour("--line"), width: 1 };
    const axis = { stroke: text, grid, ticks: { show: false }, font: "11px system-ui, sans-serif" };
    const name = (x) => (chart.names.length ? (chart.names[x] ?? "") : short(x, false));
    const shown = (value) => short(value, chart.percent);
    const lines = chart.series.map((line, index) => ({
      label: line.name, stroke: strokes[index], dash: DASHES[index], width: 2, value: (_, value) => shown(value),
      points: { show: chart.names.length > 0, size: 6, fill: strokes[index] },
    }));
    const bands = [], edges = [];
    chart.series.forEach((line, index) => {
      if (!line.lows.length) return;
      const first = 1 + lines.length + edges.length;
      bands.push({ series: [first, first + 1], fill: `color-mix(in srgb, ${strokes[index]} 14%, transparent)` });
      edges.push(...[0, 1].map(() => ({ width: 0, points: { show: false } })));
    });
    return {
      width, height: Math.round(Math.min(300, Math.max(180, width * 0.53))), series: [{}, ...lines, ...edges], bands,
      legend: { show: false }, cursor: { y: false }, padding: [8, 16, 0, 0],
      scales: { x: { time: false }, y: { range: (_, low, high) => [chart.zero ? 0 : low - (high - low || 1) * 0.05, high + (high - low || 1) * 0.05] } },
      axes: [
        { ...axis, size: 24, label: chart.label, labelSize: 16, labelGap: 2, labelFont: axis.font, values: (_, xs) => xs.map(name),
          ...(chart.names.length ? { splits: () => chart.xs } : {}) },
        { ...axis, size: 48, space: 26, values: (_, ys) => ys.map(shown) },
      ],
      hooks: { setCursor: [(plot) => plot.tell(plot.cursor.idx)] },
    };
  }

  function build(figure, number) {
    const hint = number ? "" : "Point at a curve for values; drag to zoom, double click to go back.";
    const chart = JSON.parse(figure.dataset.chart);
    const place = document.createElement("div"), values = document.createElement("figcaption");
    place.className = "canvas";
    values.className = "values";
    values.setAttribute("aria-live", "polite");
    figure.append(place, values);
    figure.classList.add("live");
    figure.tabIndex = 0;
    figure.setAttribute("role", "group");
    figure.setAttribute("aria-label", `${figure.querySelector("svg").getAttribute("aria-label")}. The arrow keys read single values.`);
    let plot = null;

    function tell(index) {
      const here = index == null ? [] : chart.series.map((line) => `${line.name} ${short(line.ys[index], chart.percent)}`);
      const x = index == null ? "" : `${chart.label} ${chart.names[index] ?? short(chart.xs[index], false)}: `;
      values.textContent = here.length ? x + here.join(", ") : hint;
    }

    function draw() {
      if (plot) plot.destroy();
      const made = options(chart, place.clientWidth);
      made.hooks.init = [(self) => { self.tell = tell; }];
      plot = new uPlot(made, columns(chart), place);
      plot.root.setAttribute("aria-hidden", "true");
      tell(null);
    }

    const whole = () => plot.setScale("x", { min: chart.xs[0], max: chart.xs.at(-1) });
    figure.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
      if (event.key === "Escape") whole();
      if (step === undefined) return;
      event.preventDefault();
      const index = Math.max(0, Math.min(chart.xs.length - 1, (plot.cursor.idx ?? (step > 0 ? -1 : chart.xs.length)) + step));
      plot.setCursor({ left: plot.valToPos(chart.xs[index], "x"), top: 0 });
    });
    draw();
    let width = place.clientWidth;
    new ResizeObserver(() => {
      if (place.clientWidth && place.clientWidth !== width) { width = place.clientWidth; draw(); }
    }).observe(place);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  }

  // A link to a benchmark opens its fold.
  function unfold() {
    const fold = document.getElementById(location.hash.slice(1))?.closest("details");
    if (fold) fold.open = true;
  }

  document.querySelectorAll("figure.plot").forEach(build);
  addEventListener("hashchange", unfold);
  unfold();
})();
