// The dashboard's page. Text goes in by textContent alone, so that nothing shown can be markup; all is asked of this host.
"use strict";

const main = document.getElementById("main");
const SVG = "http://www.w3.org/2000/svg";
let live = null;      // the open EventSource
let redraw = null;    // draws the charts of the present page anew, for another width
let token = "";       // kept in this page's memory alone
let chosen = [];      // runs to compare

function make(tag, options = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(options)) {
    if (name === "text") element.textContent = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

function draw(tag, attributes, text) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

const number = (x, digits = 4) => (x === null || x === undefined ? "–" : Number(x.toPrecision(digits)).toString());
const seconds = (s) => (s === null || s === undefined ? "" : s < 1 ? `${number(s * 1000, 3)} ms` : `${number(s, 3)} s`);
const clock = (s) => new Date(s * 1000).toLocaleString([], { dateStyle: "short", timeStyle: "medium" });
const link = (page, values) => `#/${page}?${new URLSearchParams(values)}`;

function say(text) { document.getElementById("state").textContent = text; }

// ---------------------------------------------------------------- charts

// One chart: series of {name, steps, values, low, high}; marks are steps. Arrow keys and the pointer read values.
function chart(box, { label, series, marks = [], fromZero = false, unit = "", isStair = false, isWhole = false }) {
  const width = Math.max(240, box.clientWidth), height = 190, left = 52, bottom = 22, top = 8, right = 8;
  const shown = series.filter((s) => s.steps.length);
  const all = shown.flatMap((s) => [...s.values, ...(s.low || []), ...(s.high || [])]).filter((y) => y !== null);
  box.replaceChildren();
  if (!all.length) { box.append(make("p", { class: "quiet", text: `No ${label} yet.` })); return; }
  const steps = shown.flatMap((s) => [s.steps[0], s.steps[s.steps.length - 1]]);
  const x0 = Math.min(...steps), x1 = Math.max(...steps, x0 + 1);
  let y0 = fromZero ? 0 : Math.min(...all), y1 = Math.max(...all);
  if (y0 === y1) { y0 -= fromZero ? 0 : Math.abs(y0) * 0.05 || 1; y1 += Math.abs(y1) * 0.05 || 1; }
  const lines = gridLines(y0, y1, isWhole);
  y0 = lines[0]; y1 = last(lines);
  const X = (x) => left + ((x - x0) / (x1 - x0)) * (width - left - right);
  const Y = (y) => top + (1 - (y - y0) / (y1 - y0)) * (height - top - bottom);
  const readout = make("p", { class: "readout", text: summary(shown, unit) });
  const svg = draw("svg", { class: "chart", viewBox: `0 0 ${width} ${height}`, role: "img", tabindex: "0",
    "aria-label": `${label} over steps ${x0} to ${x1}. ${summary(shown, unit)} Arrow keys read single steps.` });
  const digits = Math.max(3, Math.ceil(Math.log10(Math.max(Math.abs(y0), Math.abs(y1)) / (lines[1] - y0))) + 2);
  for (const y of lines) {
    svg.append(draw("line", { class: "grid", x1: left, x2: width - right, y1: Y(y), y2: Y(y) }));
    svg.append(draw("text", { x: left - 6, y: Y(y) + 4, "text-anchor": "end" }, number(y, digits)));
  }
  for (const [x, anchor] of [[x0, "start"], [x1, "end"]]) {
    svg.append(draw("text", { x: X(x), y: height - 6, "text-anchor": anchor }, `step ${x}`));
  }
  for (const x of marks.filter((m) => m >= x0 && m <= x1)) {
    svg.append(draw("line", { class: "mark", x1: X(x), x2: X(x), y1: top, y2: height - bottom }));
  }
  shown.forEach((s, i) => {
    if (s.low) svg.append(draw("path", { class: `b${i}`, d: band(s, X, Y) }));
    svg.append(draw("path", { class: `s${i}`, d: line(s, X, Y, isStair) }));
  });
  const cursor = draw("line", { class: "cursor", y1: top, y2: height - bottom, visibility: "hidden" });
  svg.append(cursor);
  let at = -1;
  function read(index) {
    const base = shown[0];
    at = Math.max(0, Math.min(base.steps.length - 1, index));
    const step = base.steps[at];
    cursor.setAttribute("x1", X(step)); cursor.setAttribute("x2", X(step)); cursor.setAttribute("visibility", "visible");
    readout.textContent = `step ${step}: ` + shown.map((s) => `${s.name ? s.name + " " : ""}${number(s.values[nearest(s.steps, step)])}${unit}`).join(", ");
  }
  svg.addEventListener("pointermove", (event) => {
    const place = svg.getBoundingClientRect();
    read(nearest(shown[0].steps, x0 + (((event.clientX - place.left) / place.width) * width - left) / (width - left - right) * (x1 - x0)));
  });
  svg.addEventListener("pointerleave", () => { cursor.setAttribute("visibility", "hidden"); readout.textContent = summary(shown, unit); });
  svg.addEventListener("keydown", (event) => {
    const end = shown[0].steps.length - 1;
    const next = { ArrowLeft: at < 0 ? end : at - 1, ArrowRight: at + 1, Home: 0, End: end }[event.key];
    if (next !== undefined) { event.preventDefault(); read(next); }
  });
  box.append(svg, readout);
}

// Where a chart's lines are: at multiples of 1, 2, 2.5 or 5 times a power of ten, two to five of them around y0 to y1.
function gridLines(y0, y1, isWhole) {
  const least = (y1 - y0) / 4, power = 10 ** Math.floor(Math.log10(least));
  let between = [1, 2, 2.5, 5, 10].find((m) => m * power >= least * (1 - 1e-9)) * power;
  if (isWhole) between = Math.max(1, Math.ceil(between));
  const first = Math.floor(y0 / between + 1e-9), end = Math.ceil(y1 / between - 1e-9);
  return Array.from({ length: Math.max(end, first + 1) - first + 1 }, (_, k) => (first + k) * between);
}

function summary(shown, unit) {
  return shown.map((s) => `${s.name ? s.name + ": " : ""}last ${number(last(s.values))}${unit}`).join("; ") + ".";
}
function last(values) { for (let i = values.length - 1; i >= 0; i--) if (values[i] !== null) return values[i]; return null; }
function nearest(steps, x) {
  let low = 0, high = steps.length - 1;
  while (low < high) { const middle = (low + high) >> 1; if (steps[middle] < x) low = middle + 1; else high = middle; }
  return low > 0 && x - steps[low - 1] < steps[low] - x ? low - 1 : low;
}
function line(s, X, Y, isStair) {
  let d = "", pen = "M";
  s.values.forEach((y, i) => {
    if (y === null) { pen = "M"; return; }
    d += isStair && pen === "L" ? `H${X(s.steps[i]).toFixed(1)}V${Y(y).toFixed(1)}` : `${pen}${X(s.steps[i]).toFixed(1)} ${Y(y).toFixed(1)}`;
    pen = "L";
  });
  return d;
}
function band(s, X, Y) {
  const at = s.low.map((y, i) => i).filter((i) => s.low[i] !== null);
  const up = at.map((i) => `${X(s.steps[i]).toFixed(1)} ${Y(s.high[i]).toFixed(1)}`);
  const down = at.reverse().map((i) => `${X(s.steps[i]).toFixed(1)} ${Y(s.low[i]).toFixed(1)}`);
  return up.length ? `M${up.join("L")}L${down.join("L")}Z` : "";
}

// ---------------------------------------------------------------- pages

function card(title, isWide, ...children) {
  return make("section", { class: `card${isWide ? " wide" : ""}` }, make("h2", { text: title }), ...children);
}
function badge(kind) { return make("span", { class: `badge ${kind.replace(/[^a-z]/g, "")}`, text: kind }); }

function showJobs(jobs) {
  chosen = chosen.filter((id) => jobs.some((job) => job.id === id));
  const compare = make("button", { type: "button", text: "Compare the two chosen", disabled: chosen.length !== 2,
    onclick: () => { location.hash = link("compare", { a: chosen[0], b: chosen[1] }); } });
  const items = jobs.map((job) => make("li", {},
    make("input", { type: "checkbox", "aria-label": `choose ${job.name} to compare`, checked: chosen.includes(job.id), onchange: (event) => {
      chosen = chosen.filter((id) => id !== job.id);
      if (event.target.checked) chosen.push(job.id);
      compare.disabled = chosen.length !== 2;
    } }),
    make("a", { href: link("view", { id: job.id }), text: job.name }), badge(job.state),
    make("span", { class: "how", text: [job.script, clock(job.started_s), job.how].filter(Boolean).join(" · ") })));
  const list = make("ul", { class: "list jobs" }, ...items);
  keepFocus(() => main.replaceChildren(make("h1", { text: "Jobs and runs" }), make("p", { class: "facts", text: `${jobs.length} on this machine; choose two to compare them.` }),
    make("section", { class: "card" }, jobs.length ? list : make("p", { class: "quiet", text: "No job has run yet. Start one: holdtrue run train.py" }), compare)));
}

function planLine(view) {
  const plan = view.plan, parts = [];
  if (plan.global_batch_size) parts.push(`global batch ${plan.global_batch_size} = ${plan.virtual_nodes} virtual nodes`);
  if (plan.numerics) parts.push(`numerics ${plan.numerics}`);
  if (plan.seed !== undefined) parts.push(`seed ${plan.seed}`);
  if (view.last) parts.push(`step ${view.last.step}${view.job && view.job.progress.total ? "/" + view.job.progress.total : ""}`);
  if (view.job && view.job.progress.serves) parts.push(`serves ${view.job.progress.serves}`, view.job.progress.passes);
  return [...parts, view.folder].join(" · ");
}

function seriesOf(view, name) {
  const c = view.curve;
  return { loss: { name, steps: c.steps, values: c.losses, low: c.lowest, high: c.highest }, rate: { name, steps: c.steps, values: c.examples_per_s } };
}

// Workers over steps, from the run's beginning and the changes that it recorded.
function allocation(view) {
  const steps = view.workers.map((w) => w[0]), values = view.workers.map((w) => w[1]);
  if (steps.length && view.last && view.last.step > steps[steps.length - 1]) { steps.push(view.last.step); values.push(values[values.length - 1]); }
  return { name: "", steps, values };
}

let parts = null; // of the job's page that is open

function showView(view) {
  if (!parts || parts.id !== view.id) buildView(view);
  parts.title.replaceChildren(view.name, " ", badge(view.state));
  parts.facts.textContent = planLine(view);
  parts.trouble.textContent = [view.how, view.trouble].filter(Boolean).join(" ");
  parts.mapping.replaceChildren(...(view.mapping.length ? view.mapping.map(workerRow) : [make("p", { class: "quiet", text: "No worker is known yet." })]));
  parts.events.replaceChildren(...[...view.events].reverse().map(eventRow));
  parts.digests.replaceChildren(...[...view.digests].reverse().map(([step, digest]) =>
    make("tr", {}, make("td", { text: step }), make("td", { class: "hex", text: digest }))));
  parts.actions.hidden = view.state !== "running";
  redraw = () => {
    const { loss, rate } = seriesOf(view, ""), marks = view.changes.map((change) => change[0]);
    chart(parts.loss, { label: "loss", series: [loss], marks });
    chart(parts.rate, { label: "throughput", series: [rate], marks, fromZero: true, unit: " examples/s" });
    chart(parts.workers, { label: "workers", series: [allocation(view)], marks, fromZero: true, isStair: true, isWhole: true });
  };
  const active = document.activeElement;
  if (!active || !active.closest || !active.closest(".chart")) redraw(); // a chart that is being read stays
  main.dataset.drawn = view.steps;
}

function workerRow(row, index) {
  const time = row.pass_s === null ? (row.virtual_nodes.length ? "" : "standby") : `${row.is_measured ? "" : "at most "}${seconds(row.pass_s)} a pass`;
  return make("div", { class: "worker" },
    make("span", {}, make("b", { text: `worker ${row.worker}` }), ` ${row.device}`),
    make("span", { class: `nodes n${index % 8}`, role: "img", "aria-label": `virtual nodes ${row.virtual_nodes.join(", ") || "none"}` },
      ...row.virtual_nodes.map((v) => make("span", { class: "node", text: v }))),
    make("span", { class: "time", text: time }));
}

function eventRow(event) {
  const where = [event.step === null ? "" : `step ${event.step}`, `generation ${event.generation}`,
    event.details.mapping ? `mapping ${event.details.mapping}` : "", clock(event.time_s)].filter(Boolean).join(" · ");
  return make("li", {}, badge(event.kind), ` ${event.reason} `, make("span", { class: "time", text: where }));
}

function buildView(view) {
  parts = { id: view.id };
  for (const name of ["loss", "rate", "workers", "mapping", "trouble"]) parts[name] = make("div");
  parts.title = make("h1"); parts.facts = make("p", { class: "facts" });
  parts.events = make("ol", { class: "list events" }); parts.digests = make("tbody");
  parts.actions = actionsOf(view);
  main.replaceChildren(parts.title, parts.facts, parts.trouble,
    make("div", { class: "cards" },
      card("Virtual nodes on their devices", true, parts.mapping),
      card("Loss", false, parts.loss), card("Throughput", false, parts.rate), card("Workers", false, parts.workers),
      card("What happened", false, make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "events, newest first" }, parts.events)),
      card("Digests", true, make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "digests, newest first" },
        make("table", {}, make("caption", { text: "SHA-256 of the training state after a step; equal in runs that are equal." }),
          make("thead", {}, make("tr", {}, make("th", { scope: "col", text: "step" }), make("th", { scope: "col", text: "digest" }))), parts.digests))),
      parts.actions));
}

function actionsOf(view) {
  const secret = make("input", { type: "password", autocomplete: "off", "aria-describedby": "token-help", oninput: (event) => { token = event.target.value; } });
  secret.value = token;
  const workers = make("input", { type: "number", min: "1", value: Math.max(1, view.mapping.length) });
  const said = make("p", { role: "status", "aria-live": "polite" });
  async function act(body) {
    said.textContent = "Asked.";
    try {
      const answer = await fetch("/api/act", { method: "POST", headers: { "Content-Type": "application/json", "X-Holdtrue": "1", Authorization: `Bearer ${token.trim()}` }, body: JSON.stringify(body) });
      const values = await answer.json();
      said.textContent = values.reason || values.error;
    } catch (error) { said.textContent = "The dashboard does not answer."; }
  }
  const stop = make("button", { type: "button", class: "danger", text: "Stop the job", onclick: () => {
    if (stop.dataset.sure) { delete stop.dataset.sure; stop.textContent = "Stop the job"; act({ id: view.id, what: "stop" }); }
    else { stop.dataset.sure = "yes"; stop.textContent = "Really stop it"; }
  }, onblur: () => { delete stop.dataset.sure; stop.textContent = "Stop the job"; } });
  const form = make("form", { onsubmit: (event) => { event.preventDefault(); act({ id: view.id, what: "resize", workers: Number(workers.value) }); } },
    make("label", {}, "Token of the dashboard", secret), make("label", {}, "Workers", workers), make("button", { type: "submit", text: "Resize" }), stop);
  return card("Change this job", true, form, make("p", { id: "token-help", class: "quiet", text: "The token is in the file that `holdtrue dashboard` named. It stays in this page's memory." }), said);
}

function showComparison(found) {
  const [a, b] = found.views;
  const loss = make("div"), rate = make("div");
  main.replaceChildren(make("h1", { text: `${a.name} and ${b.name}` }),
    make("p", { class: "facts" }, make("span", { class: "key0", text: a.name }), " ", make("span", { class: "key1", text: b.name })),
    make("section", { class: "card" }, make("h2", { class: found.verdict === "equal" || found.verdict === "different" ? found.verdict : "", text: found.verdict.toUpperCase() }),
      ...found.sentences.map((sentence) => make("p", { text: sentence }))),
    make("div", { class: "cards" }, card("Loss", true, loss), card("Throughput", true, rate),
      ...[a, b].map((view) => card(view.name, false, make("p", { class: "facts", text: planLine(view) }), make("div", {}, ...view.mapping.map(workerRow))))));
  redraw = () => {
    const first = seriesOf(a, a.name), second = seriesOf(b, b.name), marks = found.first_step === null ? [] : [found.first_step];
    chart(loss, { label: "loss", series: [first.loss, second.loss], marks });
    chart(rate, { label: "throughput", series: [first.rate, second.rate], fromZero: true, unit: " examples/s" });
  };
  redraw();
  main.dataset.drawn = "comparison";
}

// A list that is drawn anew keeps the keyboard where it was.
function keepFocus(change) {
  const name = document.activeElement && document.activeElement.getAttribute && (document.activeElement.getAttribute("aria-label") || document.activeElement.textContent);
  const wasInside = main.contains(document.activeElement) && document.activeElement !== main;
  change();
  if (wasInside) for (const element of main.querySelectorAll("a, input, button")) {
    if ((element.getAttribute("aria-label") || element.textContent) === name) { element.focus(); return; }
  }
}

// ---------------------------------------------------------------- which page

function follow(path, show) {
  live = new EventSource(path);
  live.onopen = () => say("live");
  live.onmessage = (event) => show(JSON.parse(event.data));
  live.addEventListener("gone", (event) => { live.close(); say(""); main.replaceChildren(make("p", { text: JSON.parse(event.data) }), make("a", { href: "#/", text: "All jobs" })); });
  live.onerror = () => say("the dashboard does not answer; asking again");
}

async function open() {
  if (live) live.close();
  live = redraw = parts = cluster = null;
  delete main.dataset.drawn;
  const [page, query] = location.hash.replace(/^#\/?/, "").split("?");
  const values = new URLSearchParams(query || "");
  document.getElementById("where").textContent = page === "view" ? values.get("id") : "";
  document.title = page === "view" ? `${values.get("id")} – holdtrue` : page === "cluster" ? "Cluster – holdtrue" : "holdtrue";
  if (page === "cluster") openCluster(values);
  else if (page === "view") follow(`/api/live?${new URLSearchParams({ id: values.get("id") })}`, showView);
  else if (page === "compare") {
    say("comparing");
    const asked = location.hash;
    let found;
    try {
      found = await (await fetch(`/api/compare?${new URLSearchParams({ a: values.get("a"), b: values.get("b") })}`)).json();
    } catch (error) { found = { error: "The dashboard does not answer. Start it again, and reload this page." }; }
    if (location.hash !== asked) return; // another page is shown by now
    say("");
    if (found.error === undefined) showComparison(found);
    else main.replaceChildren(make("p", { text: found.error }), make("a", { href: "#/", text: "All jobs" }));
  } else follow("/api/live", showJobs);
}

let waiting = 0;
addEventListener("resize", () => { cancelAnimationFrame(waiting); waiting = requestAnimationFrame(() => redraw && redraw()); });
addEventListener("hashchange", () => { open(); main.focus(); });
open();
