// Charts as SVG, drawn from numbers; colours are the page's variables.

const NS = "http://www.w3.org/2000/svg";

/** Make an element: attributes, then children (nodes or texts). Texts are never read as HTML. */
export function el(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return made;
}

function svg(name, attributes = {}, text = null) {
  const made = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== null) made.textContent = text;
  return made;
}

export function number(value) {
  if (value === null || value === undefined) return "-";
  const size = Math.abs(value);
  if (size >= 1e6) return `${(value / 1e6).toPrecision(3)}M`;
  if (size >= 1e4) return `${(value / 1e3).toPrecision(3)}k`;
  if (size > 0 && size < 1e-3) return value.toExponential(1).replace(".0e", "e");
  return String(Number(value.toPrecision(3)));
}

function ticks(low, high, most) {
  const rough = (high - low) / most;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough * (1 - 1e-9));
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i <= Math.floor(high / step + 1e-9); i += 1) found.push(i * step);
  return found;
}

function legend(names) {
  if (names.length < 2) return null;
  return el("span", { class: "legend" }, names.map((name, i) => el("span", {}, el("i", { style: `background:var(--c${i % 10})` }), name)));
}

/** Curves over steps: {name: [[x, y], ...]}. Moving over it tells the values of the nearest step. */
export function lineChart(title, unit, curves, log = false) {
  const names = Object.keys(curves);
  const scale = log ? Math.log10 : (value) => value;
  const drawn = names.map((name) => curves[name].filter(([, y]) => y !== null && (!log || y > 0)));
  const all = drawn.flat();
  if (!all.length) return null;
  const [width, height, left, bottom] = [360, 160, 44, 18];
  const xs = all.map(([x]) => x), ys = all.map(([, y]) => scale(y));
  let [x0, x1, y0, y1] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  if (x0 === x1) { x0 -= 0.5; x1 += 0.5; }
  const pad = (y1 - y0 || Math.abs(y1) || 1) * 0.08;
  y0 -= pad; y1 += pad;
  const px = (x) => left + ((x - x0) / (x1 - x0)) * (width - left - 6);
  const py = (y) => 6 + (1 - (scale(y) - y0) / (y1 - y0)) * (height - bottom - 6);
  const last = drawn.find((points) => points.length).at(-1)[1];
  const chart = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${title}, last value ${number(last)}` });
  for (const tick of ticks(y0, y1, 4)) {
    const y = 6 + (1 - (tick - y0) / (y1 - y0)) * (height - bottom - 6);
    chart.append(svg("line", { x1: left, x2: width, y1: y, y2: y, style: "stroke:var(--grid)" }));
    chart.append(svg("text", { x: left - 6, y: y + 3.5, "text-anchor": "end" }, number(log ? 10 ** tick : tick)));
  }
  for (const tick of ticks(x0, x1, 5)) {
    if (Number.isInteger(tick)) chart.append(svg("text", { x: px(tick), y: height - 4, "text-anchor": "middle" }, number(tick)));
  }
  drawn.forEach((points, i) => {
    const path = points.map(([x, y], n) => `${n ? "L" : "M"}${px(x).toFixed(1)} ${py(y).toFixed(1)}`).join("");
    chart.append(svg("path", { d: path, style: `fill:none;stroke:var(--c${i % 10});stroke-width:1.8;stroke-linejoin:round` }));
    if (points.length <= 12) for (const [x, y] of points) chart.append(svg("circle", { cx: px(x), cy: py(y), r: 2.6, style: `fill:var(--c${i % 10})` }));
  });
  const tip = el("div", { class: "tip", hidden: true });
  const figure = el("figure", {}, el("figcaption", {}, el("b", {}, title), el("span", { class: "unit" }, unit), el("span", { class: "last" }, number(last)), legend(names)), chart, tip);
  chart.addEventListener("pointermove", (event) => {
    const box = chart.getBoundingClientRect();
    const at = x0 + (((event.clientX - box.left) / box.width) * width - left) / (width - left - 6) * (x1 - x0);
    const values = drawn.map((points, i) => {
      const nearest = points.reduce((a, b) => (Math.abs(b[0] - at) < Math.abs(a[0] - at) ? b : a), points[0]);
      return nearest ? [nearest[0], `${names.length > 1 ? `${names[i]} ` : ""}${number(nearest[1])}`] : null;
    }).filter(Boolean);
    tip.textContent = `step ${Math.round(values[0][0])}: ${values.map(([, text]) => text).join(", ")}`;
    tip.hidden = false;
    tip.style.left = `${Math.min(box.width - 70, Math.max(70, event.clientX - box.left))}px`;
    tip.style.top = `${event.clientY - box.top + chart.offsetTop}px`;
  });
  chart.addEventListener("pointerleave", () => { tip.hidden = true; });
  return figure;
}

/** Phases of steps on a common clock, one lane a phase. */
export function timelineChart(phases, rows) {
  const total = rows.reduce((sum, row) => sum + Object.values(row.seconds).reduce((a, b) => a + b, 0), 0);
  const [width, lane, left] = [1100, 26, 84];
  const height = phases.length * lane + 26;
  const chart = svg("svg", { class: "timeline", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `seconds of each phase over ${rows.length} steps, ${number(total)} s in all` });
  const px = (s) => left + (s / (total || 1)) * (width - left - 8);
  phases.forEach((phase, i) => {
    chart.append(svg("text", { x: left - 8, y: i * lane + 17, "text-anchor": "end", style: "font-size:12px" }, phase));
    chart.append(svg("line", { x1: left, x2: width, y1: (i + 1) * lane, y2: (i + 1) * lane, style: "stroke:var(--grid)" }));
  });
  let clock = 0;
  for (const row of rows) {
    for (const phase of phases) {
      const seconds = row.seconds[phase] ?? 0;
      if (!seconds) continue;
      const i = phases.indexOf(phase);
      const box = svg("rect", { x: px(clock), y: i * lane + 5, width: Math.max(0.6, px(clock + seconds) - px(clock) - 0.4), height: lane - 9, rx: 2, style: `fill:var(--c${i % 10})` });
      box.append(svg("title", {}, `step ${row.step}, ${phase}: ${number(seconds)} s`));
      chart.append(box);
      clock += seconds;
    }
  }
  for (const tick of ticks(0, total || 1, 8)) chart.append(svg("text", { x: px(tick), y: height - 6, "text-anchor": "middle" }, `${number(tick)} s`));
  return chart;
}

/** A small curve of a prompt's mean rewards. */
export function spark(points, least, most) {
  const [width, height] = [150, 26];
  const [first, last] = [points[0][0], points.at(-1)[0]];
  const px = (x) => 4 + ((x - first) / (last - first || 1)) * (width - 8);
  const py = (y) => 4 + (1 - (y - least) / (most - least || 1)) * (height - 8);
  const chart = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `mean reward ${points.map(([s, m]) => `step ${s} ${number(m)}`).slice(0, 12).join(", ")}`, style: "width:150px" });
  chart.append(svg("path", { d: points.map(([x, y], n) => `${n ? "L" : "M"}${px(x).toFixed(1)} ${py(y).toFixed(1)}`).join(""), style: "fill:none;stroke:var(--c0);stroke-width:1.6" }));
  for (const [x, y] of points) chart.append(svg("circle", { cx: px(x), cy: py(y), r: 2, style: "fill:var(--c0)" }));
  return chart;
}
