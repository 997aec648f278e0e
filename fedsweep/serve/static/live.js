// Keeps the page as the database is: parts of it are replaced where they have changed, and what
// has the focus, is typed, scrolled or unfolded stays.
"use strict";

const banner = document.getElementById("away");
const link = document.getElementById("link");

function say(state, text) {
  link.dataset.state = state;
  link.textContent = state === "live" ? "live" : "not live";
  banner.hidden = !text;
  if (banner.textContent !== text) banner.textContent = text;
}

// A text has the name of the element before it, so that it stays with that element.
function keys(nodes) {
  let last = "";
  return nodes.map((node) => {
    if (node.nodeType !== 1) return `${node.nodeType} after ${last}`;
    return (last = `${node.tagName}#${node.id}#${node.dataset?.key ?? ""}`);
  });
}

function sameAttributes(old, made) {
  for (const { name } of [...old.attributes]) {
    if (!made.hasAttribute(name) && name !== "open") old.removeAttribute(name);
  }
  for (const { name, value } of made.attributes) {
    if (name !== "open" && old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
}

// Changes only the characters that differ: a selection around them stays.
function rewrite(node, text) {
  const old = node.data, most = Math.min(old.length, text.length);
  let head = 0, tail = 0;
  while (head < most && old[head] === text[head]) head++;
  while (tail < most - head && old.at(-1 - tail) === text.at(-1 - tail)) tail++;
  node.replaceData(head, old.length - head - tail, text.slice(head, text.length - tail));
}

let pressed = null;
document.addEventListener("pointerdown", (event) => { pressed = event.target; }, true);

// Returns the nodes that have the focus, an end of the selection, or the last press of the mouse.
function nodesInUse() {
  const { anchorNode, focusNode } = getSelection();
  return [document.activeElement, anchorNode, focusNode, pressed].filter(Boolean);
}

// Returns the nodes that stay in place: the most that are in order, above all those in use. A node
// that is moved loses its focus, its selection and its click.
function unmoved(nodes, children) {
  const places = new Map(children.map((node, i) => [node, i]));
  const follows = (i, j) => places.get(nodes[i]) > places.get(nodes[j]);
  if (nodes.every((_, i) => !i || follows(i, i - 1))) return new Set(nodes);
  const used = nodesInUse(), best = [], before = [];
  let end = 0;
  for (const [i, node] of nodes.entries()) {
    let most = 0;
    before[i] = -1;
    for (let j = 0; j < i; j++) {
      if (best[j] > most && follows(i, j)) [most, before[i]] = [best[j], j];
    }
    best[i] = most + (used.some((other) => node.contains(other)) ? nodes.length : 1);
    if (best[i] > best[end]) end = i;
  }
  const stay = new Set();
  for (let i = end; i >= 0; i = before[i]) stay.add(nodes[i]);
  return stay;
}

function insert(parent, node, next) {
  if (node.parentNode === parent && parent.moveBefore) parent.moveBefore(node, next);
  else parent.insertBefore(node, next);
}

// Makes the old children what the new ones are. A node that has a twin stays itself.
function morph(old, made) {
  const children = [...old.childNodes], wanted = [...made.childNodes];
  const free = new Map(), names = keys(children);
  for (const [i, node] of children.entries()) {
    if (!free.has(names[i])) free.set(names[i], []);
    free.get(names[i]).push(node);
  }
  const twins = keys(wanted).map((name) => free.get(name)?.shift());
  const stay = unmoved(twins.filter(Boolean), children);
  for (const node of [...free.values()].flat()) node.remove();
  let next = null;
  for (const [i, node] of [...wanted.entries()].reverse()) {
    const twin = twins[i] ?? node;
    if (!stay.has(twin)) insert(old, twin, next);
    next = twin;
    if (twin === node || twin.isEqualNode(node)) continue;
    if (twin.nodeType !== 1) rewrite(twin, node.data);
    else {
      sameAttributes(twin, node);
      morph(twin, node);
    }
  }
}

function replace(id, html) {
  const part = document.getElementById(id);
  if (!part) return;
  const made = document.createElement("template");
  made.innerHTML = html;
  morph(part, made.content);
}

function onPage({ parts = {}, title, said }) {
  for (const [id, html] of Object.entries(parts)) replace(id, html);
  if (title) document.title = title;
  if (said) document.getElementById("said").textContent = said;
}

// Loads the page that could not be shown, when nobody types: a page that is loaded forgets it.
function comeBack() {
  const field = document.getElementById("find");
  if (!field.value && document.activeElement !== field) location.reload();
  else field.addEventListener("blur", comeBack, { once: true });
}

const GONE = "The database does not answer: what you see is from before. It comes back by itself.";
const CLOSED = "fedsweep serve does not answer: what you see is from before. If it was started " +
  "anew, open the address that it printed.";
const AGAIN = 5000; // milliseconds
const ASLEEP = 60000;

let source = null;

function listen() {
  source?.close();
  source = new EventSource(document.body.dataset.events);
  const on = (name, act) => source.addEventListener(name, (event) => act(JSON.parse(event.data)));
  let away = "";
  source.addEventListener("open", () => say(away ? "away" : "live", away));
  on("page", (page) => {
    if ("gone" in document.body.dataset) comeBack();
    say("live", (away = ""));
    onPage(page);
  });
  on("away", () => say("away", (away = GONE)));
  on("back", () => say("live", (away = "")));
  for (const name of ["figure", "rounds"]) {
    on(name, (detail) => document.dispatchEvent(new CustomEvent(name, { detail })));
  }
  source.addEventListener("error", () => {
    say("away", CLOSED);
    if (source.readyState === EventSource.CLOSED) setTimeout(listen, AGAIN);
  });
}

// A browser has six connections to a server: a page that nobody sees gives its own back.
let sleep = 0;

function onVisibility() {
  clearTimeout(sleep);
  if (document.hidden) {
    sleep = setTimeout(() => {
      source.close();
      document.title = document.title.replace(/^\d+ running/, "asleep");
    }, ASLEEP);
  } else if (source.readyState === EventSource.CLOSED) listen();
}

if (document.body.dataset.events) {
  listen();
  document.addEventListener("visibilitychange", onVisibility);
} else say("live", "");

// A filter applies when it is chosen; without a script its button does.
for (const form of document.querySelectorAll("form[data-apply]")) {
  form.addEventListener("change", () => form.requestSubmit());
  form.addEventListener("submit", () => {
    for (const field of form.elements) if (field.name && !field.value) field.disabled = true;
  });
}
window.addEventListener("pageshow", () => {
  for (const field of document.querySelectorAll("form[data-apply] :disabled")) field.disabled = false;
});

const typing = (node) => /^(INPUT|TEXTAREA|SELECT)$/.test(node.tagName);

document.addEventListener("keydown", (event) => {
  if (event.key === "/" && !typing(event.target) && !event.ctrlKey && !event.metaKey) {
    event.preventDefault();
    (document.querySelector("main [data-filter]") ?? document.querySelector("[data-filter]")).focus();
  }
  if (event.key === "Enter" && event.ctrlKey && "submit" in event.target.dataset) {
    event.target.form.requestSubmit();
  }
});
