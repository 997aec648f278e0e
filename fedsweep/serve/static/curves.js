// Draws the curves of a trial as rounds arrive, and the mean curves of a sweep.
"use strict";

const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const dark = matchMedia("(prefers-color-scheme: dark)");
const OPTIONS = { displayModeBar: false, responsive: true, showTips: false };

function layout(x, y) {
  const axis = { gridcolor: color("--line"), zerolinecolor: color("--line"), linecolor: color("--line"), automargin: true };
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: color("--ink"), family: "system-ui, sans-serif", size: 12 },
    margin: { l: 48, r: 12, t: 30, b: 40 }, hovermode: "x unified", showlegend: true,
    hoverlabel: { bgcolor: color("--raised"), bordercolor: color("--line") },
    legend: { orientation: "h", y: 1.01, yanchor: "bottom", x: 0, tracegroupgap: 0 }, uirevision: "kept",
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

// The rounds of a trial: rows of (round, one number per measure, phase, inherited). The server
// describes the measures.
let rounds = [];
const measures = () => JSON.parse(document.getElementById("rounds").dataset.measures);
const LINES = { train: ["--dim", "solid"], test: ["--running", "solid"], validation: ["--finished", "dash"] };

function drawRounds() {
  for (const [id, title] of [["accuracy", "accuracy, %"], ["loss", "loss, nats"]]) {
    const traces = measures().flatMap(({ group, samples, label, scale }, i) => {
      if (group !== id) return [];
      const measured = rounds.filter((row) => row[i + 1] !== null), [paint, dash] = LINES[samples];
      return {
        name: label, mode: measured.length < 2 ? "markers" : "lines",
        x: measured.map((row) => row[0]), y: measured.map((row) => scale * row[i + 1]),
        line: { color: color(paint), dash, width: 1.8 }, marker: { color: color(paint) },
      };
    });
    const chart = document.getElementById(id);
    const shown = traces.filter((t) => t.x.length);
    Plotly.react(chart, shown, fitLegend(chart, shown, layout("round", title)), OPTIONS);
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

// The arms of a sweep.
let figure = null;

function band(trace, paint) {
  const up = trace.y.map((v, i) => v + trace.std[i]), down = trace.y.map((v, i) => v - trace.std[i]);
  return {
    x: [...trace.x, ...trace.x.toReversed()], y: [...up, ...down.toReversed()], fill: "toself",
    fillcolor: paint + "26", line: { width: 0 }, mode: "lines", hoverinfo: "skip", showlegend: false,
    legendgroup: trace.name,
  };
}

function drawArms() {
  const chart = document.getElementById("arms");
  if (!chart || !figure) return;
  const paint = (t) => t.color?.[dark.matches ? "dark" : "light"] ?? "#808080";
  const lines = figure.traces.flatMap((t) => [
    ...(t.std.some((s) => s > 0) ? [band(t, paint(t))] : []),
    { name: `${t.name} (n = ${t.n})`, x: t.x, y: t.y, mode: t.x.length < 2 ? "markers" : "lines", line: { color: paint(t), width: 1.8 }, legendgroup: t.name },
  ]);
  Plotly.react(chart, lines, fitLegend(chart, lines, layout(figure.x, figure.y)), OPTIONS);
  chart.dataset.traces = figure.traces.length;
}

document.addEventListener("figure", ({ detail }) => {
  figure = detail;
  drawArms();
});

function redraw() {
  if (document.getElementById("accuracy")) drawRounds();
  drawArms();
}

dark.addEventListener("change", redraw);
addEventListener("resize", redraw);
