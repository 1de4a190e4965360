// The cluster's page: its queue, and which job had which devices when. It draws with what app.js has, and does nothing by itself.
"use strict";

let cluster = null; // what the open page of the cluster has

function span(s) {
  const whole = Math.max(0, Math.round(s));
  const parts = [[Math.floor(whole / 86400), "d"], [Math.floor(whole / 3600) % 24, "h"], [Math.floor(whole / 60) % 60, "min"], [whole % 60, "s"]];
  const first = parts.findIndex(([count]) => count > 0);
  return first < 0 ? "0 s" : parts.slice(first, first + 2).filter(([count]) => count > 0).map(([count, unit]) => `${count} ${unit}`).join(" ");
}
const counted = (count) => count.toLocaleString("en");

function openCluster(values) {
  const until = values.get("until") === null ? null : Number(values.get("until"));
  const page = cluster = { until, queue: null, chart: null, now: null, at: -1, parts: buildCluster(until) };
  live = new EventSource(`/api/live/cluster${until === null ? "" : `?${new URLSearchParams({ until })}`}`);
  const hear = (kind, act) => live.addEventListener(kind, (event) => { if (cluster === page) act(JSON.parse(event.data)); });
  live.onopen = () => say("live");
  live.onerror = () => say("the dashboard does not answer; asking again");
  hear("clock", (now) => { page.now = now; tellAges(); if (until === null && page.chart && !isRead()) drawAllocation(); });
  hear("trouble", (sentence) => {
    page.parts.trouble.textContent = sentence;
    page.parts.trouble.hidden = !sentence;
    page.parts.body.hidden = Boolean(sentence) && !page.queue;
  });
  hear("queue", (queue) => { if (queue) { page.queue = queue; page.parts.body.hidden = false; showQueue(); } });
  hear("chart", (chart) => { if (chart) { page.chart = chart; showChart(); } });
  redraw = () => page.chart && drawAllocation();
}

function buildCluster(until) {
  const parts = {};
  for (const name of ["running", "waiting", "over", "chart", "links", "body"]) parts[name] = make("div");
  parts.facts = make("p", { class: "facts" });
  parts.trouble = make("p", { class: "trouble", role: "status", hidden: true });
  parts.titles = { running: make("h2", { text: "Running" }), waiting: make("h2", { text: "Waiting" }), over: make("h2", { text: "Over" }) };
  parts.readout = make("p", { class: "readout", role: "status", "aria-live": "polite" });
  parts.rows = make("tbody");
  parts.table = make("details", { ontoggle: () => tellTable() }, make("summary", { text: "The same as a table" }),
    make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "who had which devices when" },
      make("table", { class: "wrapped" }, headOf(["job", "devices", "from", "to", "for"]), parts.rows)));
  parts.links.className = "links";
  parts.body.className = "cards";
  parts.body.append(card("Devices over time", true,
    make("p", { class: "quiet", text: "A row for each device. Equal devices are dealt out to rows so that a job keeps its own: the log counts them, and does not name them." }), parts.links, parts.chart, parts.readout, parts.table),
    ...["running", "waiting", "over"].map((name) => make("section", { class: "card wide", id: name }, parts.titles[name], parts[name])));
  main.replaceChildren(make("h1", { text: "Cluster" }), parts.facts, parts.trouble, parts.body);
  return parts;
}

// ---------------------------------------------------------------- the queue

function headOf(names) {
  return make("thead", {}, make("tr", {}, ...names.map((text) => make("th", { scope: "col", text }))));
}

// A cell that says its column's name where the table is narrow; `since` makes it a time that goes on.
function cell(label, text, since) {
  const made = make("td", { "data-label": label, text: text === null ? "" : text });
  if (since !== undefined) { made.dataset.since = since; made.textContent = cluster.now === null ? "" : span(cluster.now - since); }
  return made;
}
function tellAges() {
  for (const element of main.querySelectorAll("[data-since]")) element.textContent = span(cluster.now - Number(element.dataset.since));
}

function bounds(job) { return job.min_devices === job.max_devices ? `${job.min_devices}` : `${job.min_devices} to ${job.max_devices}`; }
function nameOf(job) {
  const made = make("td", { class: "name", "data-label": "job" });
  made.append(job.id ? make("a", { href: link("view", { id: job.id }), text: job.name }) : job.name, ` `, make("span", { class: "quiet", text: `#${job.number}` }));
  return made;
}
function given(job) {
  const moving = job.workers !== null && job.workers !== job.devices ? ` (now ${job.workers})` : "";
  return (job.percent === 100 ? `${job.devices} of ${bounds(job)}` : `${job.percent} % of ${job.devices}`) + moving;
}
const stepOf = (job) => (job.step === null ? "" : job.total ? `${job.step}/${job.total}` : `${job.step}`);
const waited = (job) => (job.started_s === null ? "never started" : span(job.started_s - job.submitted_s));

const COLUMNS = {
  running: (job) => [nameOf(job), cell("queue", job.queue), cell("devices", given(job)), cell("step", stepOf(job)), cell("waited", waited(job)),
    cell("running for", null, job.started_s), cell("", [job.purpose && "ending", job.attempt > 1 && `attempt ${job.attempt}`].filter(Boolean).join(", "))],
  waiting: (job) => [nameOf(job), cell("queue", job.queue), cell("asks for", job.percent === 100 ? bounds(job) : `${job.percent} % of 1`),
    job.started_s === null ? cell("waits", null, job.submitted_s) : cell("waits", `again; first ${waited(job)}`), cell("", job.ending)],
  over: (job) => [nameOf(job), stateOf(job), cell("queue", job.queue), cell("waited", waited(job)),
    cell("took", job.started_s === null ? "" : span(job.ended_s - job.started_s)), cell("ended", clock(job.ended_s)), cell("", job.ending)],
};
const HEADS = {
  running: ["job", "queue", "devices", "step", "waited", "running for", ""],
  waiting: ["job", "queue", "asks for", "waits", ""],
  over: ["job", "state", "queue", "waited", "took", "ended", ""],
};
function stateOf(job) {
  const made = cell("state", "");
  made.append(badge(job.state));
  return made;
}

function showQueue() {
  const { queue, parts } = cluster, counts = queue.counts;
  const over = counts.finished + counts.failed + counts.cancelled;
  const devices = Object.entries(queue.devices).map(([kind, number]) => `${kind}:${number}`).join(",");
  const queues = Object.entries(queue.queues).map(([name, number]) => `${name}=${number}`).join(",");
  parts.facts.textContent = [devices, `policy ${queue.policy}`, queues && `queues ${queues}`, queue.reason].filter(Boolean).join(" · ");
  parts.titles.running.textContent = `Running: ${counted(counts.running)}`;
  parts.titles.waiting.textContent = `Waiting: ${counted(counts.waiting)}`;
  parts.titles.over.textContent = `Over: ${counted(over)} (${["finished", "failed", "cancelled"].map((state) => `${counted(counts[state])} ${state}`).join(", ")})`;
  keepFocus(() => {
    for (const name of ["running", "waiting", "over"]) {
      const jobs = queue.jobs.filter((job) => (name === "over" ? job.ended_s !== null : job.state === name));
      const left = (name === "over" ? over : counts[name]) - jobs.length;
      parts[name].replaceChildren(
        jobs.length ? make("table", { class: "wrapped" }, headOf(HEADS[name]), make("tbody", {}, ...jobs.map((job) => make("tr", {}, ...COLUMNS[name](job)))))
          : left > 0 ? "" : make("p", { class: "quiet", text: name === "over" ? "No job is over yet." : `No job is ${name}.` }),
        left > 0 ? make("p", { class: "quiet rest", text: `${counted(left)} more; \`holdtrue queue --all\` lists them.` }) : "");
    }
  });
}

// ---------------------------------------------------------------- devices over time

const GUTTER = 52, FOOT = 20;
function isRead() { // a chart that is being read stays
  return cluster.parts.chart.contains(document.activeElement) || Boolean(cluster.parts.chart.querySelector("svg:hover"));
}

function showChart() {
  const { chart, parts, until } = cluster;
  const links = [];
  if (!chart.is_first) links.push(make("a", { href: link("cluster", { until: chart.from_s }), text: "Earlier" }));
  if (until !== null) links.push(make("a", { href: "#/cluster", text: "Newest" }));
  keepFocus(() => parts.links.replaceChildren(...links));
  if (!isRead()) drawAllocation();
  tellTable();
  main.dataset.drawn = chart.newest;
}

// Blocks as drawn: their job, and their times cut to the window. An end of null is one that has not come.
function blocksOf(chart, end) {
  return chart.blocks.map(([place, start, stop, percent, offset, runs]) => {
    const [number, name] = chart.jobs[place];
    return { number, name, start: Math.max(start, chart.from_s), stop: stop === null ? end : Math.min(stop, end), holds: stop === null || stop > end, percent, offset, runs };
  });
}
function endOf(chart) {
  if (chart.until_s !== null) return chart.until_s;
  const known = chart.blocks.flatMap((block) => [block[1], block[2] === null ? 0 : block[2]]);
  return Math.max(chart.from_s + 1, ...known, cluster.now === null || !cluster.queue ? 0 : cluster.now - cluster.queue.epoch_s);
}
function devicesOf(chart, block) {
  if (block.percent < 100) return `${block.percent} % of a ${chart.rows[block.runs[0][0]][0]}`;
  const counts = {};
  for (const [kind, , length] of block.runs) counts[chart.rows[kind][0]] = (counts[chart.rows[kind][0]] || 0) + length;
  return Object.entries(counts).map(([kind, count]) => `${count} ${kind}`).join(" and ");
}
const timeOf = (s) => (cluster.queue ? clock(cluster.queue.epoch_s + s) : `${number(s)} s`);
function sentenceOf(chart, block) {
  return `${block.name} (#${block.number}): ${devicesOf(chart, block)} from ${timeOf(block.start)} ${block.holds ? "on" : `to ${timeOf(block.stop)}`}, ${span(block.stop - block.start)}`;
}

function drawAllocation() {
  const { chart, parts } = cluster, box = parts.chart;
  const total = chart.rows.reduce((sum, [, count]) => sum + count, 0);
  const end = endOf(chart), blocks = cluster.blocks = blocksOf(chart, end);
  if (!blocks.length) { box.replaceChildren(make("p", { class: "quiet", text: "No job has had a device yet." })); return; }
  const width = Math.max(240, box.clientWidth), row = Math.max(4, Math.min(28, Math.floor(420 / total)));
  const tops = chart.rows.map((_, kind) => 4 + chart.rows.slice(0, kind).reduce((sum, [, count]) => sum + count * row + 6, 0));
  const height = 4 + total * row + 6 * chart.rows.length + FOOT;
  const X = (s) => GUTTER + ((s - chart.from_s) / (end - chart.from_s)) * (width - GUTTER - 2);
  const kept = box.querySelector("svg") === document.activeElement;
  const svg = draw("svg", { class: "alloc", viewBox: `0 0 ${width} ${height}`, height, role: "img", tabindex: "0", "data-from": chart.from_s, "data-until": end,
    "aria-label": `Devices over time: ${counted(blocks.length)} allocations of ${counted(chart.jobs.length)} jobs on ${chart.rows.map(([kind, count]) => `${count} ${kind}`).join(" and ")}. Arrow keys read single ones; below is a table.` });
  chart.rows.forEach(([kind, count], i) => {
    svg.append(draw("text", { x: 0, y: tops[i] + Math.min(count * row, 14) }, kind));
    for (let k = 0; k <= count; k++) svg.append(draw("line", { class: "grid", x1: GUTTER, x2: width - 2, y1: tops[i] + k * row, y2: tops[i] + k * row }));
  });
  blocks.forEach((block, index) => {
    const x = X(block.start), wide = X(block.stop) - x; // to scale, however thin
    block.runs.forEach(([kind, first, length], i) => {
      const part = block.percent < 100 ? block.percent / 100 : 1;
      const y = tops[kind] + first * row + (block.percent < 100 ? (1 - part - block.offset / 100) * row : 0), tall = Math.max(1, length * row * part - 1);
      svg.append(draw("rect", { class: `block n${block.number % 8}`, x: x.toFixed(2), y: y.toFixed(2), width: wide.toFixed(2), height: tall.toFixed(2), "data-block": index }));
      if (i === 0 && tall >= 12 && wide >= 7 * block.name.length + 8) svg.append(draw("text", { class: "label", x: (x + 4).toFixed(1), y: (y + tall / 2 + 4).toFixed(1) }, block.name));
    });
  });
  for (const [s, anchor, x] of [[chart.from_s, "start", GUTTER], [end, "end", width - 2]]) svg.append(draw("text", { x, y: height - 5, "text-anchor": anchor }, timeOf(s)));
  function read(index) {
    cluster.at = Math.max(0, Math.min(blocks.length - 1, index));
    for (const rect of svg.querySelectorAll(".at")) rect.classList.remove("at");
    for (const rect of svg.querySelectorAll(`[data-block="${cluster.at}"]`)) rect.classList.add("at");
    parts.readout.textContent = sentenceOf(chart, blocks[cluster.at]);
  }
  svg.addEventListener("pointermove", (event) => { if (event.target.dataset.block !== undefined) read(Number(event.target.dataset.block)); });
  svg.addEventListener("keydown", (event) => {
    const last = blocks.length - 1, at = cluster.at;
    const next = { ArrowLeft: at < 0 ? last : at - 1, ArrowRight: at + 1, Home: 0, End: last }[event.key];
    if (next !== undefined) { event.preventDefault(); read(next); }
  });
  box.replaceChildren(svg);
  if (kept) svg.focus();
  if (!parts.readout.textContent) parts.readout.textContent = "Point at a block, or go there with Tab and use the arrow keys.";
}

function tellTable() {
  const { chart, parts } = cluster;
  if (!chart || !parts.table.open) { parts.rows.replaceChildren(); return; }
  const blocks = blocksOf(chart, endOf(chart));
  parts.rows.replaceChildren(...blocks.reverse().map((block) => make("tr", {},
    make("td", { class: "name", "data-label": "job", text: `${block.name} #${block.number}` }), cell("devices", devicesOf(chart, block)),
    cell("from", timeOf(block.start)), cell("to", block.holds ? "" : timeOf(block.stop)), cell("for", span(block.stop - block.start)))));
}
