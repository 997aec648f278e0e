// Draws the curves of a trial as rounds arrive, and the figures of sweeps and of two trials.
"use strict";

const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const dark = matchMedia("(prefers-color-scheme: dark)");
const OPTIONS = { displayModeBar: false, responsive: true, showTips: false };

// The rounds of a running mean; 0 without smoothing.
const smoothing = () => Number(document.getElementById("smooth")?.value ?? 0);

// Returns a running mean over the points within `k` rounds around each point. Near an end, the
// window is narrower on both sides, so that a rising curve is not shifted.
function smoothed(x, y, k) {
  let low = 0, high = 0;
  return y.map((value, i) => {
    if (value === null) return null;
    const reach = Math.min((k - 1) / 2, x[i] - x[0], x.at(-1) - x[i]);
    while (x[low] < x[i] - reach) low++;
    while (high + 1 < x.length && x[high + 1] <= x[i] + reach) high++;
    const near = y.slice(low, high + 1).filter((other) => other !== null);
    return near.reduce((sum, other) => sum + other, 0) / near.length;
  });
}

function layout(x, y) {
  const axis = { gridcolor: color("--line"), zerolinecolor: color("--line"), linecolor: color("--line"), automargin: true };
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: color("--ink"), family: "system-ui, sans-serif", size: 12 },
    margin: { l: 48, r: 12, t: 30, b: 40 }, hovermode: "x unified", showlegend: true,
    hoverlabel: { bgcolor: color("--raised"), bordercolor: color("--line") },
    dragmode: "zoom", legend: { orientation: "h", y: 1.01, yanchor: "bottom", x: 0, tracegroupgap: 0 }, uirevision: "kept",
    xaxis: { ...axis, title: { text: x } }, yaxis: { ...axis, title: { text: y } },
  };
}

// Plotly adds a scrollbar to a legend that is higher than half of its chart. So names are wrapped to
// the width of the chart, and the chart grows by the height of its legend. The added height is kept,
// because a page that is lower for a moment scrolls up.
const grown = new WeakMap();
const pen = document.createElement("canvas").getContext("2d");
const LINE = 16, ROW = 3, HANDLE = 45, SIDES = 48 + 12;

function wrapped(name, width) {
  const lines = [""];
  for (const letter of name) {
    const longer = lines.at(-1) + letter;
    if (lines.at(-1) && pen.measureText(longer).width > width) {
      const blank = lines.at(-1).lastIndexOf(" ") + 1;
      const rest = blank ? lines.at(-1).slice(blank) : "";
      if (blank) lines[lines.length - 1] = lines.at(-1).slice(0, blank - 1);
      lines.push(rest + letter);
    } else lines[lines.length - 1] = longer;
  }
  return lines;
}

function fitLegend(chart, traces, drawn) {
  pen.font = `${drawn.font.size}px ${drawn.font.family}`;
  const room = chart.clientWidth - SIDES - 10;
  const plot = chart.clientHeight - (grown.get(chart) ?? 0);
  const named = traces.filter((trace) => trace.showlegend !== false);
  const names = named.map((trace) => wrapped(trace.name, room - HANDLE));
  named.forEach((trace, i) => { trace.name = names[i].join("<br>"); });
  const widest = Math.max(1, ...names.flat().map((line) => pen.measureText(line).width));
  const columns = Math.max(1, Math.floor(room / (widest * 1.05 + HANDLE)));
  const lines = Math.max(1, ...names.map((name) => name.length));
  const height = Math.ceil(named.length / columns) * (lines * LINE + ROW) + 10;
  drawn.legend.maxheight = 2 * height + 100;
  grown.set(chart, Math.max(0, height - drawn.margin.t));
  chart.style.height = grown.get(chart) ? `${plot + grown.get(chart)}px` : "";
  return drawn;
}

// Draws lines, the same way in every figure. Zoom and hidden lines stay as they are. `smooths` says
// if the lines can be smoothed.
function draw(chart, lines, x, y, smooths) {
  const k = smooths ? smoothing() : 0;
  const note = document.getElementById("smoothed");
  if (note && smooths) note.hidden = !k;
  const drawn = layout(x, k ? `${y} (mean of ${k} rounds)` : y);
  Plotly.react(chart, lines, fitLegend(chart, lines, drawn), OPTIONS);
  chart.dataset.smoothing = k;
}

// The rounds of a trial: rows of (round, one number per measure, phase, inherited). The server
// describes the measures.
let rounds = [];
const measures = () => JSON.parse(document.getElementById("rounds").dataset.measures);
const LINES = { train: ["--dim", "solid"], test: ["--running", "solid"], validation: ["--finished", "dash"] };

function drawRounds() {
  const k = smoothing();
  for (const [id, title] of [["accuracy", "accuracy, %"], ["loss", "loss, nats"]]) {
    const traces = measures().flatMap(({ group, samples, label, scale }, i) => {
      if (group !== id) return [];
      const measured = rounds.filter((row) => row[i + 1] !== null), [paint, dash] = LINES[samples];
      const x = measured.map((row) => row[0]), y = measured.map((row) => scale * row[i + 1]);
      return {
        name: label, mode: measured.length < 2 ? "markers" : "lines", x, y: k ? smoothed(x, y, k) : y,
        line: { color: color(paint), dash, width: 1.8 }, marker: { color: color(paint) },
      };
    });
    const chart = document.getElementById(id);
    draw(chart, traces.filter((t) => t.x.length), "round", title, true);
    chart.dataset.points = rounds.length;
  }
}

const percent = (value) => (value === null ? "–" : (100 * value).toFixed(2));
const number = (value) => (value === null ? "–" : String(Number(value.toPrecision(4))));

function fillRow(line, row, measured) {
  const phase = row.at(-2) + (row.at(-1) ? " (shared)" : "");
  const texts = [row[0], ...measured.map(({ scale }, i) => (scale === 100 ? percent : number)(row[i + 1])), phase];
  for (const [i, text] of texts.entries()) {
    const cell = line.cells[i] ?? line.appendChild(document.createElement(i ? "td" : "th"));
    if (!i) cell.scope = "row";
    cell.className = i < texts.length - 1 ? "n" : "";
    if (cell.textContent !== String(text)) cell.textContent = text;
  }
}

// Existing rows are kept, and so is a selection in them. If `replace`, all rounds are sent again.
document.addEventListener("rounds", ({ detail: { replace, rounds: more } }) => {
  const body = document.getElementById("rounds");
  if (!body) return;
  rounds = replace ? more : [...rounds, ...more];
  const first = rounds.length - more.length, described = measures();
  for (const [i, row] of more.entries()) fillRow(body.rows[first + i] ?? body.insertRow(), row, described);
  while (body.rows.length > rounds.length) body.deleteRow(-1);
  drawRounds();
});

// The figures of a sweep and of two trials, by the id of their chart. A line is a curve by round, a
// line of points with error bars, or a level.
const figures = new Map();
const MARKERS = 12; // on a curve

function band(x, y, std, paint, name) {
  const up = y.map((v, i) => v + std[i]), down = y.map((v, i) => v - std[i]);
  return {
    x: [...x, ...x.toReversed()], y: [...up, ...down.toReversed()], fill: "toself",
    fillcolor: paint + "26", line: { width: 0 }, mode: "lines", hoverinfo: "skip", showlegend: false,
    legendgroup: name,
  };
}

function linesOf(trace, k) {
  const paint = trace.color ? trace.color[dark.matches ? "dark" : "light"] : color("--ink");
  const name = trace.n ? `${trace.name} (n = ${trace.n})` : trace.name;
  const line = { color: paint, dash: trace.dash ?? "solid", width: 1.8 };
  const marker = { color: paint, symbol: trace.marker ?? "circle", size: 7 };
  const one = { name, x: trace.x, y: trace.y, line, legendgroup: trace.name };
  if (trace.kind === "level") {
    return [{ ...one, mode: "lines", line: { ...line, dash: line.dash === "solid" ? "dash" : line.dash } }];
  }
  if (trace.kind === "points") {
    const error_y = { type: "data", array: trace.std, color: paint, thickness: 1.2 };
    return [{ ...one, mode: "lines+markers", marker, error_y }];
  }
  // Smoothed first: a curve that forks from another one begins on it.
  const skipped = trace.x.filter((round) => round < (trace.first ?? 0)).length;
  const ready = (values) => (k ? smoothed(trace.x, values, k) : values).slice(skipped);
  const x = trace.x.slice(skipped), y = ready(trace.y), std = trace.std.length ? ready(trace.std) : [];
  const mode = x.length < 2 ? "markers" : trace.marker ? "lines+markers" : "lines";
  const curve = { ...one, x, y, mode, marker: { ...marker, maxdisplayed: MARKERS } };
  return std.some((s) => s > 0) ? [band(x, y, std, paint, trace.name), curve] : [curve];
}

function drawFigure(figure) {
  const chart = document.getElementById(figure.id), around = document.getElementById(`${figure.id}-figure`);
  if (!chart) return;
  if (around) around.hidden = !figure.traces.length;
  if (around?.hidden) return;
  const smooths = figure.traces.every((trace) => trace.kind === "curve");
  const lines = figure.traces.flatMap((trace) => linesOf(trace, smooths ? smoothing() : 0));
  draw(chart, lines, figure.x, figure.y, smooths);
  chart.dataset.traces = figure.traces.length;
}

document.addEventListener("figure", ({ detail }) => {
  figures.set(detail.id, detail);
  drawFigure(detail);
});

function redraw() {
  if (document.getElementById("rounds")) drawRounds();
  figures.forEach(drawFigure);
}

// A double click on a chart does the same.
document.addEventListener("click", ({ target: button }) => {
  const chart = button.dataset?.reset && document.getElementById(button.dataset.reset);
  if (chart?.data) Plotly.relayout(chart, { "xaxis.autorange": true, "yaxis.autorange": true });
});

document.addEventListener("redraw", redraw);
dark.addEventListener("change", redraw);
addEventListener("resize", redraw);
