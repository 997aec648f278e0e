// Updates the page from its event stream. Only changed parts are replaced. The focus, the selection,
// typed text, the scroll position and unfolded details stay as they are.
"use strict";

document.documentElement.classList.add("scripted");

const banner = document.getElementById("away");
const link = document.getElementById("link");

function say(state, text) {
  link.dataset.state = state;
  link.textContent = state === "live" ? "live" : "not live";
  banner.hidden = !text;
  if (banner.textContent !== text) banner.textContent = text;
}

// Returns a key per node. A text node is named after the element before it, to stay with it.
function keys(nodes) {
  let last = "";
  return nodes.map((node) => {
    if (node.nodeType !== 1) return `${node.nodeType} after ${last}`;
    return (last = `${node.tagName}#${node.id}#${node.dataset?.key ?? ""}`);
  });
}

function copyAttributes(old, made) {
  for (const { name } of [...old.attributes]) {
    if (!made.hasAttribute(name) && name !== "open") old.removeAttribute(name);
  }
  for (const { name, value } of made.attributes) {
    if (name !== "open" && old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
}

// Replaces only the characters that differ, so that a selection around them stays.
function rewrite(node, text) {
  const old = node.data, most = Math.min(old.length, text.length);
  let head = 0, tail = 0;
  while (head < most && old[head] === text[head]) head++;
  while (tail < most - head && old.at(-1 - tail) === text.at(-1 - tail)) tail++;
  node.replaceData(head, old.length - head - tail, text.slice(head, text.length - tail));
}

let pressed = null;
document.addEventListener("pointerdown", (event) => { pressed = event.target; }, true);

// Returns the nodes with the focus, with an end of the selection, and with the last mouse press.
function nodesInUse() {
  const { anchorNode, focusNode } = getSelection();
  return [document.activeElement, anchorNode, focusNode, pressed].filter(Boolean);
}

// Returns the nodes that need not be moved: the longest sequence in the right order, in which nodes
// in use count most. A node that is moved loses its focus, its selection and its click.
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

// Makes the children of `old` equal to those of `made`. A node whose key occurs in both is kept.
function morph(old, made) {
  const children = [...old.childNodes], targets = [...made.childNodes];
  const free = new Map(), names = keys(children);
  for (const [i, node] of children.entries()) {
    if (!free.has(names[i])) free.set(names[i], []);
    free.get(names[i]).push(node);
  }
  const twins = keys(targets).map((name) => free.get(name)?.shift());
  const stay = unmoved(twins.filter(Boolean), children);
  for (const node of [...free.values()].flat()) node.remove();
  let next = null;
  for (const [i, node] of [...targets.entries()].reverse()) {
    const twin = twins[i] ?? node;
    if (!stay.has(twin)) insert(old, twin, next);
    next = twin;
    if (twin === node || twin.isEqualNode(node)) continue;
    if (twin.nodeType !== 1) rewrite(twin, node.data);
    else {
      copyAttributes(twin, node);
      morph(twin, node);
    }
  }
}

// A changed attribute does not change a field that the user has changed. A choice that is sent is
// that of the address, which is also that of the user.
function settle(part) {
  for (const box of part.querySelectorAll("[data-apply] [type=checkbox]")) box.checked = box.defaultChecked;
  for (const option of part.querySelectorAll("[data-apply] option")) option.selected = option.defaultSelected;
}

function replace(id, html) {
  const part = document.getElementById(id);
  if (!part) return;
  const made = document.createElement("template");
  made.innerHTML = html;
  morph(part, made.content);
  settle(part);
}

function onPage({ parts = {}, title, said }) {
  for (const [id, html] of Object.entries(parts)) replace(id, html);
  if (title) document.title = title;
  if (said) document.getElementById("said").textContent = said;
}

// Reloads a page that could not be shown before. It waits while the user types, because a reload
// would discard the text.
function reloadWhenIdle() {
  const field = document.getElementById("find");
  if (!field.value && document.activeElement !== field) location.reload();
  else field.addEventListener("blur", reloadWhenIdle, { once: true });
}

const GONE = "The database does not answer: this page shows older data. It updates itself when the " +
  "database answers again.";
const CLOSED = "fedsweep serve does not answer: this page shows older data. If it was started " +
  "again, open the address that it printed.";
const RECONNECT_MS = 5000; // after the server refused the stream
const SLEEP_MS = 60000; // after which a hidden page closes its stream

let source = null;

function listen() {
  source?.close();
  const { events, choice } = document.body.dataset;
  source = new EventSource(choice ? `${events}&${choice}` : events);
  const on = (name, act) => source.addEventListener(name, (event) => act(JSON.parse(event.data)));
  let away = "";
  source.addEventListener("open", () => say(away ? "away" : "live", away));
  on("page", (page) => {
    if ("gone" in document.body.dataset) reloadWhenIdle();
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
    if (source.readyState === EventSource.CLOSED) setTimeout(listen, RECONNECT_MS);
  });
}

// A browser opens at most six connections to a server, so a hidden page closes its own.
let sleep = 0;

function onVisibility() {
  clearTimeout(sleep);
  if (document.hidden) {
    sleep = setTimeout(() => {
      source.close();
      document.title = document.title.replace(/^\d+ running/, "asleep");
    }, SLEEP_MS);
  } else if (source.readyState === EventSource.CLOSED) listen();
}

if (document.body.dataset.events) {
  listen();
  document.addEventListener("visibilitychange", onVisibility);
} else say("live", "");

// Returns the query of a form. The usual option of a list, by default the first, is left out. So is a group of
// checkboxes that is as usual. If none of a group is checked, it has one empty value. The parameters `without`, whose
// options the choice changes, are left out.
function chosen(form, without = "") {
  const query = new URLSearchParams(), groups = new Map();
  for (const field of form.elements) {
    if (field.name && without.split(" ").includes(field.name)) continue;
    if (field.type !== "checkbox") {
      const usual = field.type === "select-one" && (field.querySelector("[data-usual]") ?? field.options[0]);
      const isUsual = usual && field.selectedOptions[0] === usual;
      if (field.name && field.value && !isUsual) query.append(field.name, field.value);
    } else groups.set(field.name, [...(groups.get(field.name) ?? []), field]);
  }
  for (const [name, boxes] of groups) {
    if (boxes.every((box) => box.checked === "usual" in box.dataset)) continue;
    const checked = boxes.filter((box) => box.checked);
    for (const value of checked.length ? checked.map((box) => box.value) : [""]) query.append(name, value);
  }
  return String(query);
}

// Applies a choice. The address holds it. The page stays, and its stream sends the parts that change.
function applyHere(form, redraws, resets) {
  const choice = chosen(form, resets), path = form.getAttribute("action");
  history.replaceState(null, "", choice ? `${path}?${choice}` : path);
  document.body.dataset.choice = choice;
  if (redraws) document.dispatchEvent(new Event("redraw"));
  else listen();
}

// A choice is applied at once. Without JavaScript, the button of its form applies it.
document.addEventListener("change", ({ target: field }) => {
  const form = field.form;
  if (!form || !("apply" in form.dataset)) return;
  if (form.dataset.apply === "here") applyHere(form, "redraws" in field.dataset, field.dataset.resets);
  else form.requestSubmit();
});
document.addEventListener("click", ({ target: button }) => {
  const check = button.dataset?.check;
  if (!check) return;
  for (const box of button.closest("fieldset").querySelectorAll("[type=checkbox]")) {
    box.checked = check === "all";
  }
  applyHere(button.form, false);
});
for (const form of document.querySelectorAll("form[data-apply='']")) {
  form.addEventListener("submit", () => {
    for (const field of form.elements) if (field.name && !field.value) field.disabled = true;
  });
}
window.addEventListener("pageshow", () => {
  for (const field of document.querySelectorAll("form[data-apply] :disabled")) field.disabled = false;
});

const typing = (node) => /^(INPUT|TEXTAREA|SELECT)$/.test(node.tagName) && node.type !== "checkbox";

document.addEventListener("keydown", (event) => {
  if (event.key === "/" && !typing(event.target) && !event.ctrlKey && !event.metaKey) {
    event.preventDefault();
    (document.querySelector("main [data-filter]") ?? document.querySelector("[data-filter]")).focus();
  }
  if (event.key === "Enter" && event.ctrlKey && "submit" in event.target.dataset) {
    event.target.form.requestSubmit();
  }
});
