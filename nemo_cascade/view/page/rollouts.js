// The browser of rollouts: filters, pages, one rollout with its turns and tokens, the difference from another.

import { el, number } from "./charts.js";

const PAGE = 50;
const SORTS = ["newest", "oldest", "best", "worst", "longest", "shortest"];
const FIELDS = ["stage", "step", "domain", "prompt", "finish", "error", "least", "most", "min_tokens", "max_tokens", "sort"];

/** Longest common subsequence of words, as [mark, text]: " " both, "-" the first only, "+" the second only. */
export function wordDiff(before, after) {
  const a = before.split(/(\s+)/).slice(0, 1500), b = after.split(/(\s+)/).slice(0, 1500);
  const lengths = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i -= 1)
    for (let j = b.length - 1; j >= 0; j -= 1)
      lengths[i][j] = a[i] === b[j] ? lengths[i + 1][j + 1] + 1 : Math.max(lengths[i + 1][j], lengths[i][j + 1]);
  const found = [];
  let [i, j] = [0, 0];
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) { found.push([" ", a[i]]); i += 1; j += 1; }
    else if (j < b.length && (i === a.length || lengths[i][j + 1] >= lengths[i + 1][j])) { found.push(["+", b[j]]); j += 1; }
    else { found.push(["-", a[i]]); i += 1; }
  }
  return found;
}

/** Names of the tools that a turn calls, as the shipped chat templates write calls: JSON or <function=NAME>. */
function called(said) {
  return [...said.matchAll(/<tool_call>\s*(?:<function=([^>\s]+)|\{[^{}]*?"name":\s*"([^"]+)")/g)].map(([, xml, json]) => xml ?? json);
}

export class Rollouts {
  /**
   * @param ask (what, query) -> answer of the server for the run that is shown
   * @param say tells a line to those who listen
   */
  constructor(ask, say) {
    this.ask = ask;
    this.say = say;
    this.query = { sort: "newest" };
    this.offset = 0;
    this.held = null;
    this.asked = 0;
  }

  async show(main, overview) {
    this.stages = overview.stages.filter((stage) => stage.rollout_steps.length);
    this.domains = overview.domains;
    if (!this.stages.length) {
      main.replaceChildren(el("p", { class: "note" }, "No rollouts yet: RL stages keep some of each step (stages.NAME.rollouts_to_keep)."));
      return;
    }
    if (!this.stages.some((stage) => stage.name === this.query.stage)) this.query.stage = this.stages.at(-1).name;
    this.filters = el("form", { class: "bar", id: "filters", onsubmit: (event) => event.preventDefault() });
    this.list = el("div", { class: "card list", role: "group", "aria-label": "rollouts" });
    this.pages = el("div", { class: "bar" });
    this.one = el("section", { class: "card", "aria-label": "the rollout", "aria-live": "off" });
    const folded = el("details", { open: window.innerWidth > 800, class: "filters" }, el("summary", {}, "filters"), this.filters);
    main.replaceChildren(folded, el("div", { class: "split" }, el("div", {}, this.pages, this.list), this.one));
    this.#fillFilters();
    await this.load();
  }

  #fillFilters() {
    const change = (name) => (event) => { this.query[name] = event.target.value; this.offset = 0; this.load(); };
    const choice = (name, label, values) => el("label", {}, label, el("select", { onchange: change(name) },
      values.map(([value, text]) => el("option", { value, selected: String(this.query[name] ?? "") === value }, text))));
    const field = (name, label, long = false) => el("label", {}, label, el("input", { class: long ? "long" : "", inputmode: long ? "text" : "decimal", value: this.query[name] ?? "", onchange: change(name) }));
    const any = (values) => [["", "any"], ...values.map((value) => [value, value])];
    this.filters.replaceChildren(
      choice("stage", "stage", this.stages.map((stage) => [stage.name, stage.name])),
      field("step", "step"),
      choice("domain", "domain", any(this.domains)),
      field("least", "reward from"), field("most", "to"),
      field("min_tokens", "tokens from"), field("max_tokens", "to"),
      choice("finish", "ended", any(["stop", "length", "abort"])),
      choice("error", "error", [["", "any"], ["any", "with"], ["none", "without"]]),
      field("prompt", "prompt", true),
      choice("sort", "order", SORTS.map((sort) => [sort, sort])),
      el("button", { type: "button", onclick: () => { this.query = { stage: this.query.stage, sort: "newest" }; this.offset = 0; this.#fillFilters(); this.load(); } }, "clear"),
    );
  }

  async load(keep = false) {
    const query = Object.fromEntries(FIELDS.filter((name) => this.query[name]).map((name) => [name, this.query[name]]));
    const mine = (this.asked += 1);
    const found = await this.ask("rollouts", { ...query, offset: this.offset, limit: PAGE });
    if (mine !== this.asked) return;
    const wanted = keep && this.rows ? this.rows[this.at] : null;
    this.rows = found.rows;
    this.total = found.total;
    const same = wanted ? found.rows.findIndex((row) => row.stage === wanted.stage && row.step === wanted.step && row.row === wanted.row) : 0;
    this.at = Math.max(0, same);
    const last = Math.min(this.offset + PAGE, found.total);
    const told = `${found.total ? this.offset + 1 : 0} to ${last} of ${found.total.toLocaleString("en")}`;
    const waiting = found.waiting ? ` (${found.waiting.toLocaleString("en")} steps are still being indexed)` : "";
    this.pages.replaceChildren(
      el("button", { type: "button", disabled: this.offset === 0, onclick: () => this.turn(-1) }, "previous"),
      el("button", { type: "button", disabled: last >= found.total, onclick: () => this.turn(1) }, "next"),
      el("span", { class: "note" }, told + waiting));
    this.list.replaceChildren(...found.rows.map((row, number) => this.#item(row, number)));
    if (!found.rows.length) this.list.replaceChildren(el("p", { class: "note" }, "None match."));
    this.say(told);
    if (found.rows.length && same <= 0) await this.open(this.at, false);
    else if (!found.rows.length) this.one.replaceChildren(el("p", { class: "note" }, "Nothing chosen."));
    else this.#mark();
  }

  #item(row, at) {
    const reward = row.error ? el("span", { class: "chip hold" }, row.error) : el("b", {}, number(row.reward));
    return el("button", { class: "item", type: "button", onclick: () => this.open(at) },
      el("span", {}, `step ${row.step}`), el("span", {}, reward),
      el("span", { class: "unit" }, `${row.tokens} ${row.tokens === 1 ? "token" : "tokens"}`),
      row.finish_reason === "length" ? el("span", { class: "chip rollback" }, "cut off") : null,
      row.turns > 1 ? el("span", { class: "chip" }, `${row.turns} turns`) : null,
      el("div", { class: "who" }, `${row.domain} · ${row.prompt_id}`));
  }

  #mark() {
    [...this.list.children].forEach((item, number) => item.setAttribute("aria-current", String(number === this.at)));
  }

  async open(at, reveal = true) {
    if (at < 0 || at >= this.rows.length) return;
    this.at = at;
    this.#mark();
    if (reveal) this.list.children[at].scrollIntoView({ block: "nearest" });
    const row = this.rows[at];
    const line = await this.ask("rollout", { stage: row.stage, step: row.step, row: row.row });
    if (this.rows[this.at] === row) this.#show(line, row);
  }

  #show(line, row) {
    const facts = [`step ${row.step}`, `reward ${number(line.reward)}`, `advantage ${number(line.advantage)}`, line.finish_reason, `weights ${line.version}`];
    const parts = [
      el("div", { class: "bar" }, el("b", {}, `${line.domain} · ${line.prompt_id}`), el("span", { class: "note" }, facts.join(" · ")),
        el("button", { type: "button", onclick: () => this.hold() }, this.held ? "hold this one instead" : "hold to compare"),
        el("button", { type: "button", onclick: () => { this.query = { stage: row.stage, prompt: line.prompt_id, sort: "oldest" }; this.offset = 0; this.#fillFilters(); this.load(); } }, "this prompt over all steps")),
    ];
    if (line.error) parts.push(el("p", { class: "notices" }, `no verdict: ${line.error}`));
    if (line.detail) parts.push(el("p", {}, line.detail));
    if (this.held && this.held.line !== line) parts.push(this.#difference(line, row));
    const turns = line.turns?.length ? line.turns : [{ given: line.prompt, said: line.response, version: line.version }];
    const apart = line.tokens?.length && turns.length > 1 && turns.every((turn) => turn.tokens !== undefined);
    let first = 0;
    turns.forEach((turn, number_) => {
      const of = turns.length > 1 ? `turn ${number_ + 1} of ${turns.length}: ` : "";
      const calls = called(turn.said).map((name) => el("span", { class: "chip" }, `calls ${name}`));
      parts.push(
        el("h2", { class: "small" }, of + (number_ ? "given" : "prompt")), el("pre", { tabindex: "0" }, turn.given),
        el("h2", { class: "small" }, of + (of ? "said " : "response "), calls), el("pre", { class: "said", tabindex: "0" }, turn.said));
      if (apart) parts.push(this.#tokens(line, first, (first += turn.tokens)));
    });
    if (line.tokens?.length && !apart) parts.push(this.#tokens(line, 0, line.tokens.length));
    this.one.replaceChildren(...parts);
    this.line = line;
    this.row = row;
  }

  #tokens(line, first, last) {
    const engines = line.logprobs.slice(first, last), trainers = line.trainer_logprobs?.slice(first, last);
    const told = line.tokens.slice(first, last).map((piece, i) => {
      const engine = engines[i], trainer = trainers?.[i];
      const unlikely = Math.round(Math.min(1, -engine / 6) * 55);
      const title = `log-prob ${engine.toFixed(3)}${trainer === undefined ? "" : `, trainer ${trainer.toFixed(3)}, difference ${(trainer - engine).toFixed(3)}`}`;
      return el("span", { class: "token", title, style: `background:color-mix(in srgb, var(--c1) ${unlikely}%, transparent)` }, piece);
    });
    const sum = engines.reduce((a, b) => a + b, 0);
    const off = trainers?.length ? trainers.reduce((most, value, i) => Math.max(most, Math.abs(value - engines[i])), 0) : null;
    return el("details", {}, el("summary", {}, el("b", {}, "Tokens"), el("span", { class: "unit" },
      ` ${told.length}, mean log-prob ${number(sum / told.length)} of the engine${off === null ? "" : `, trainer differs by ${number(off)} at most`}; the darker, the less likely`)),
      el("pre", { tabindex: "0" }, told));
  }

  #difference(line, row) {
    const marks = { " ": (text) => text, "-": (text) => el("del", {}, text), "+": (text) => el("ins", {}, text) };
    return el("details", { open: true }, el("summary", {}, el("b", {}, "Difference"), el("span", { class: "unit" }, ` from step ${this.held.row.step}, reward ${number(this.held.line.reward)}, to step ${row.step}`)),
      el("pre", { tabindex: "0" }, wordDiff(this.held.line.response, line.response).map(([mark, text]) => marks[mark](text))));
  }

  hold() {
    this.held = { line: this.line, row: this.row };
    this.say(`held: step ${this.row.step}`);
    this.#show(this.line, this.row);
  }

  turn(by) {
    const next = this.offset + by * PAGE;
    if (next < 0 || next >= this.total) return;
    this.offset = next;
    this.load();
  }

  stepBy(by) {
    const steps = this.stages.find((stage) => stage.name === this.query.stage).rollout_steps;
    const now = Number(this.query.step) || (by > 0 ? steps[0] - 1 : steps.at(-1) + 1);
    const next = by > 0 ? steps.find((step) => step > now) : steps.findLast((step) => step < now);
    if (next === undefined) return;
    this.query.step = String(next);
    this.offset = 0;
    this.#fillFilters();
    this.load();
  }

  key(key) {
    const keys = { j: () => this.open(this.at + 1), k: () => this.open(this.at - 1), n: () => this.turn(1), p: () => this.turn(-1), "[": () => this.stepBy(-1), "]": () => this.stepBy(1), d: () => this.hold(), "/": () => { this.filters.parentElement.open = true; this.filters.querySelector("input").focus(); } };
    if (!keys[key] || !this.rows) return false;
    keys[key]();
    return true;
  }
}
