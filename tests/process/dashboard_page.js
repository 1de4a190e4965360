// Runs the dashboard's page in node, on elements that only remember their text: node dashboard_page.js CLUSTER.JS APP.JS
// Prints what the page shows as JSON: while a comparison is awaited, after the user left it, and after one that failed.
"use strict";
const fs = require("fs");

class Element {
  constructor() { this.dataset = {}; this.children = []; this.own = ""; this.listeners = {}; this.clientWidth = 400; }
  set textContent(text) { this.own = String(text); this.children = []; }
  get textContent() { return this.own + this.children.map((child) => (child instanceof Element ? child.textContent : child)).join(" "); }
  setAttribute() {}
  addEventListener(name, run) { this.listeners[name] = run; }
  append(...children) { this.children.push(...children); }
  replaceChildren(...children) { this.own = ""; this.children = children; }
  contains() { return false; }
  querySelectorAll() { return []; }
  focus() {}
}
const known = {};
const listeners = {};
const document = {
  getElementById: (name) => (known[name] ??= new Element()),
  createElement: () => new Element(), createElementNS: () => new Element(), activeElement: null, title: "",
};
const location = { hash: "" };
class EventSource {
  constructor(path) { EventSource.newest = this; this.path = path; }
  addEventListener() {}
  close() {}
}
let answer; // settles the fetch that is under way
const fetch = () => new Promise((good, bad) => { answer = { good, bad }; });
const settled = () => new Promise((go) => setTimeout(go, 20));

new Function("document", "location", "EventSource", "fetch", "addEventListener", "requestAnimationFrame", "cancelAnimationFrame",
  process.argv.slice(2).map((path) => fs.readFileSync(path, "utf8")).join("\n"))(document, location, EventSource, fetch, (name, run) => { listeners[name] = run; }, () => 0, () => {});

function go(hash) { location.hash = hash; listeners.hashchange(); }

async function main() {
  const shown = {};
  go("#/compare?a=run%2Fx&b=run%2Fy");
  const first = answer;
  go("#/");
  EventSource.newest.onopen();
  EventSource.newest.onmessage({ data: "[]" });
  shown.list = known.main.textContent;
  first.good({ ok: false, json: async () => ({ error: "there is no run/x." }) });
  await settled();
  shown.left = known.main.textContent;
  shown.state = known.state.textContent;
  go("#/compare?a=run%2Fx&b=run%2Fy");
  answer.good({ ok: false, json: async () => ({ error: "there is no run/x." }) });
  await settled();
  shown.refused = known.main.textContent;
  go("#/");
  go("#/compare?a=run%2Fx&b=run%2Fy");
  answer.bad(new TypeError("Failed to fetch"));
  await settled();
  shown.failed = known.main.textContent;
  console.log(JSON.stringify(shown));
}
main();
