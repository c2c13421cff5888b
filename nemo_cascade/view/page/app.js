// The page: views of one run, drawn anew when the run has written something.

import { el, lineChart, number, spark, timelineChart } from "./charts.js";
import { Rollouts } from "./rollouts.js";

const EVERY_MS = 3000;
const main = document.getElementById("main");
const say = (text) => { document.getElementById("live").textContent = text; };

let runs = [];
let run = 0;
let tab = "scores";
let overview = null;
let state = "";
let stageShown = null;
let drawing = 0;

async function get(path, query = {}) {
  const answer = await fetch(`${path}?${new URLSearchParams(query)}`);
  const told = await answer.json();
  if (!answer.ok) throw new Error(told.error);
  return told;
}

const ask = (what, query = {}, of = run) => get(`/api/${of}/${what}`, query);
const rollouts = new Rollouts(ask, say);

function matrixTable(told) {
  const cell = (row, domain) => {
    const found = row.cells[domain];
    if (!found || found.score === null) return el("td", { class: "cell" }, el("span", { class: "se" }, "not scored"));
    const compared = found.compared;
    const mark = { up: "▲ ", down: "▼ ", broken: "! " }[found.tone] ?? "";
    const title = `${found.n} prompts${compared ? `; 95 % interval ${compared.low.toFixed(3)} to ${compared.high.toFixed(3)}; ${found.verdict}` : ""}`;
    return el("td", { class: `cell ${found.tone}`, title }, el("span", { class: "score" }, found.score.toFixed(3)),
      found.stderr === null ? null : el("span", { class: "se" }, ` ± ${found.stderr.toFixed(3)}`),
      compared ? el("span", { class: "delta" }, `${mark}${compared.difference >= 0 ? "+" : ""}${compared.difference.toFixed(3)}`) : null);
  };
  return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "scores by stage and domain" }, el("table", { class: "matrix" },
    el("thead", {}, el("tr", {}, ["stage", "gate"].map((name) => el("th", { scope: "col" }, name)), told.domains.map((name) => el("th", { scope: "col", class: "num" }, name)))),
    el("tbody", {}, told.matrix.map((row) => el("tr", {}, el("th", { scope: "row" }, row.stage),
      el("td", {}, row.gate ? el("span", { class: `chip ${row.gate}`, title: row.reasons.join("\n") }, row.gate) : ""),
      told.domains.map((domain) => cell(row, domain)))))));
}

function showScores() {
  const told = overview;
  const scored = new Set(told.matrix.map((row) => row.stage));
  const waiting = told.planned.filter((name) => !scored.has(name));
  main.replaceChildren(
    told.notices.length ? el("div", { class: "notices" }, told.notices.map((notice) => el("p", {}, notice))) : "",
    el("p", { class: "note" }, told.outcome),
    told.findings.length ? el("div", { class: "card" }, el("ul", {}, told.findings.map((text) => el("li", {}, text)))) : "",
    told.ways.length ? el("div", { class: "card" }, el("h2", { class: "small" }, "The gate holds the run. It goes on by one of these"),
      told.ways.map(([meaning, command]) => [el("p", { class: "note" }, meaning), el("pre", { tabindex: "0" }, command)])) : "",
    el("div", { class: "card" }, told.matrix.length ? matrixTable(told) : el("p", { class: "note" }, "No model has been scored yet."),
      el("p", { class: "note" }, "Score ± standard error; below it the difference from the stage's parent, paired by prompt. ▲ ▼ significant; red and !: a promise was broken.",
        waiting.length ? ` Not scored yet: ${waiting.join(", ")}.` : "")));
}

function stageChoice(change, stages = overview.stages.filter((stage) => stage.steps)) {
  if (!stages.some((stage) => stage.name === stageShown)) stageShown = stages.at(-1)?.name ?? null;
  return el("div", { class: "bar" }, el("label", {}, "stage", el("select", { onchange: (event) => { stageShown = event.target.value; change(); } },
    stages.map((stage) => el("option", { value: stage.name, selected: stage.name === stageShown }, `${stage.name} (${stage.steps} steps)`)))));
}

async function showCurves() {
  const choice = stageChoice(showCurves);
  if (!stageShown) { main.replaceChildren(el("p", { class: "note" }, "No step has been logged yet.")); return; }
  const told = await ask("curves", { stage: stageShown });
  if (tab !== "curves") return;
  const errors = Object.entries(told.errors);
  main.replaceChildren(choice,
    el("div", { class: "card charts" }, told.charts.map((chart) => lineChart(chart.title, chart.unit, chart.curves, chart.log)).filter(Boolean)),
    errors.length ? el("div", { class: "card" }, el("h2", { class: "small" }, "Verifier errors by kind"), el("table", {}, el("tbody", {}, errors.map(([kind, count]) => el("tr", {}, el("td", {}, kind), el("td", { class: "num" }, String(count))))))) : "");
}

let firstStep = 1;

async function showTime() {
  const choice = stageChoice(() => { firstStep = 1; showTime(); });
  if (!stageShown) { main.replaceChildren(el("p", { class: "note" }, "No step has been logged yet.")); return; }
  const count = 40;
  const last = overview.stages.find((stage) => stage.name === stageShown).steps;
  const told = await ask("timeline", { stage: stageShown, first: firstStep, count });
  if (tab !== "time") return;
  const turn = (by) => { firstStep = Math.max(1, firstStep + by * count); showTime(); };
  choice.append(el("button", { type: "button", disabled: firstStep === 1, onclick: () => turn(-1) }, "earlier"),
    el("button", { type: "button", disabled: firstStep + count > last, onclick: () => turn(1) }, "later"),
    el("span", { class: "note" }, `steps ${firstStep} to ${Math.min(last, firstStep + count - 1)} of ${last}`));
  const totals = overview.stages.filter((stage) => stage.seconds);
  const whole = totals.reduce((sum, stage) => sum + stage.seconds, 0);
  main.replaceChildren(choice,
    el("div", { class: "card scroll", tabindex: "0", role: "region", "aria-label": "time line" }, timelineChart(told.phases, told.rows), el("p", { class: "note" }, "Seconds that the run waited for each phase; within a step the phases are drawn in the order of their names here, not of their happening.")),
    el("div", { class: "card" }, el("h2", { class: "small" }, "Stages"), el("table", {}, el("thead", {}, el("tr", {}, ["stage", "state"].map((name) => el("th", { scope: "col" }, name)), ["steps", "seconds", "share"].map((name) => el("th", { scope: "col", class: "num" }, name)))),
      el("tbody", {}, totals.map((stage) => el("tr", {}, el("td", {}, stage.name), el("td", {}, stage.state), el("td", { class: "num" }, String(stage.steps)), el("td", { class: "num" }, number(stage.seconds)), el("td", { class: "num" }, `${Math.round((100 * stage.seconds) / whole)} %`)))))));
}

let promptOffset = 0;

async function showPrompts() {
  const stages = overview.stages.filter((stage) => stage.rollout_steps.length);
  const choice = stageChoice(() => { promptOffset = 0; showPrompts(); }, stages);
  if (!stageShown) { main.replaceChildren(el("p", { class: "note" }, "No rollouts yet.")); return; }
  const limit = 50;
  const told = await ask("prompts", { stage: stageShown, offset: promptOffset, limit });
  if (tab !== "prompts") return;
  const values = told.rows.flatMap((row) => row.points.map(([, mean]) => mean));
  const [least, most] = [Math.min(0, ...values), Math.max(1, ...values)];
  const turn = (by) => { promptOffset += by * limit; showPrompts(); };
  choice.append(el("button", { type: "button", disabled: promptOffset === 0, onclick: () => turn(-1) }, "previous"),
    el("button", { type: "button", disabled: promptOffset + limit >= told.total, onclick: () => turn(1) }, "next"),
    el("span", { class: "note" }, `${told.total} prompts of the kept rollouts, those whose mean reward changed most first`));
  main.replaceChildren(choice, el("div", { class: "card scroll", tabindex: "0", role: "region", "aria-label": "prompts" }, el("table", { class: "prompts" },
    el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "prompt"), el("th", { scope: "col" }, "mean reward over the steps"), ["first", "last", "times asked"].map((name) => el("th", { scope: "col", class: "num" }, name)))),
    el("tbody", {}, told.rows.map((row) => el("tr", {},
      el("td", {}, el("button", { type: "button", onclick: () => { rollouts.query = { stage: stageShown, prompt: row.prompt_id, sort: "oldest" }; rollouts.offset = 0; choose("rollouts"); } }, row.prompt_id)),
      el("td", {}, spark(row.points, least, most)), el("td", { class: "num" }, number(row.points[0][1])), el("td", { class: "num" }, number(row.points.at(-1)[1])), el("td", { class: "num" }, String(row.points.length))))))));
}

async function showLedger() {
  const told = await ask("ledger");
  if (tab !== "ledger") return;
  main.replaceChildren(el("div", { class: "card scroll", tabindex: "0", role: "region", "aria-label": "ledger" }, el("table", { class: "ledger" },
    el("thead", {}, el("tr", {}, ["time (UTC), newest first", "event", "stage", "details"].map((name) => el("th", { scope: "col" }, name)))),
    el("tbody", {}, told.rows.map((row) => el("tr", {}, el("td", { class: "note" }, row.time.slice(0, 19).replace("T", " ")), el("td", {}, el("b", {}, row.event.replaceAll("_", " "))), el("td", {}, row.stage ?? ""),
      el("td", { class: "details" }, el("code", {}, Object.entries(row.details).map(([key, value]) => `${key}=${typeof value === "string" ? value : JSON.stringify(value)}`).join("  ").slice(0, 600)))))))));
}

async function showCompare() {
  const all = await Promise.all(runs.map((_, number_) => ask("overview", {}, number_)));
  const shared = [...new Set(all.flatMap((told) => told.stages.filter((stage) => stage.steps).map((stage) => stage.name)))];
  if (!shared.includes(stageShown)) stageShown = shared.at(-1) ?? null;
  const choice = el("div", { class: "bar" }, el("label", {}, "stage", el("select", { onchange: (event) => { stageShown = event.target.value; showCompare(); } }, shared.map((name) => el("option", { selected: name === stageShown }, name)))));
  const curves = await Promise.all(all.map((told, number_) => (told.stages.some((stage) => stage.name === stageShown && stage.steps) ? ask("curves", { stage: stageShown }, number_) : { charts: [] })));
  if (tab !== "compare") return;
  const titles = [...new Set(curves.flatMap((told) => told.charts.map((chart) => chart.title)))];
  const over = titles.map((title) => {
    const lines = {};
    let unit = "", log = false;
    curves.forEach((told, number_) => {
      const chart = told.charts.find((found) => found.title === title);
      if (chart) { lines[runs[number_].name] = Object.values(chart.curves)[0]; unit = [Object.keys(chart.curves).length > 1 ? Object.keys(chart.curves)[0] : "", chart.unit].filter(Boolean).join(", "); log = chart.log; }
    });
    return lineChart(title, unit, lines, log);
  }).filter(Boolean);
  const domains = [...new Set(all.flatMap((told) => told.domains))];
  const end = (told, domain) => told.matrix.findLast((row) => row.cells[domain]?.score !== undefined && row.cells[domain]?.score !== null)?.cells[domain];
  main.replaceChildren(
    el("div", { class: "card scroll", tabindex: "0", role: "region", "aria-label": "scores at the end" }, el("h2", { class: "small" }, "Scores at the end"), el("table", {},
      el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "run"), domains.map((name) => el("th", { scope: "col", class: "num" }, name)))),
      el("tbody", {}, all.map((told, number_) => el("tr", {}, el("th", { scope: "row" }, runs[number_].name), domains.map((domain) => { const cell = end(told, domain); return el("td", { class: "num" }, cell ? `${cell.score.toFixed(3)} ± ${(cell.stderr ?? 0).toFixed(3)}` : "-"); }))))),
      el("p", { class: "note" }, "Differences with intervals, paired by prompt: ", el("code", {}, "nemo-cascade report RUN RUN"))),
    choice, el("div", { class: "card charts" }, over));
}

const TABS = { scores: ["Scores", showScores], curves: ["Curves", showCurves], time: ["Time", showTime], rollouts: ["Rollouts", () => rollouts.show(main, overview)], prompts: ["Prompts", showPrompts], ledger: ["Ledger", showLedger] };

async function draw() {
  const mine = (drawing += 1);
  try {
    const told = await ask("overview");
    if (mine !== drawing) return;
    overview = told;
    document.getElementById("name").textContent = told.name;
    document.title = `${told.name} · nemo-cascade`;
    const chip = document.getElementById("state");
    chip.textContent = told.state;
    chip.className = `chip ${told.state.split(",")[0]}`;
    await TABS[tab][1]();
  } catch (error) {
    if (mine === drawing) main.replaceChildren(el("p", { class: "notices", role: "alert" }, String(error.message)));
  }
}

function choose(name) {
  tab = name;
  location.hash = name;
  document.querySelectorAll("#tabs button").forEach((button) => (button.dataset.tab === name ? button.setAttribute("aria-current", "page") : button.removeAttribute("aria-current")));
  document.querySelector("#tabs [aria-current]").scrollIntoView({ block: "nearest", inline: "nearest" });
  return draw();
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select, textarea")) return;
  const names = Object.keys(TABS);
  if (event.key === "?") document.getElementById("help").showModal();
  else if (names[Number(event.key) - 1]) choose(names[Number(event.key) - 1]);
  else if (tab === "rollouts" && rollouts.key(event.key)) event.preventDefault();
});

async function look() {
  try {
    const told = await ask("state");
    const now = `${told.state}`;
    if (state && now !== state) {
      // Whoever reads a rollout isn't disturbed: only the list behind it is looked up again.
      if (tab === "rollouts" && rollouts.rows) { overview = await ask("overview"); await rollouts.load(true); } else await draw();
    } else if (tab === "rollouts" && told.waiting && rollouts.rows) await rollouts.load(true);
    state = now;
  } catch {
    document.getElementById("state").textContent = "the server has ended";
  }
  setTimeout(look, EVERY_MS);
}

async function begin() {
  runs = await get("/api/runs");
  if (runs.length > 1) TABS.compare = ["Compare", showCompare];
  const select = document.getElementById("run");
  select.replaceChildren(...runs.map((found, number_) => el("option", { value: number_, title: found.path }, found.name)));
  select.addEventListener("change", () => { run = Number(select.value); state = ""; stageShown = null; rollouts.query = { sort: "newest" }; rollouts.held = null; draw(); });
  document.getElementById("help-button").addEventListener("click", () => document.getElementById("help").showModal());
  document.getElementById("tabs").append(...Object.entries(TABS).map(([name, [label]]) => el("button", { type: "button", "data-tab": name, onclick: () => choose(name) }, label)));
  await choose(TABS[location.hash.slice(1)] ? location.hash.slice(1) : "scores");
  look();
}

begin();
