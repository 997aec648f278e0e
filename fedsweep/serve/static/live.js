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

const key = (node) =>
  node.nodeType === 1 ? `${node.tagName}#${node.id}#${node.dataset?.key ?? ""}` : node.nodeType;

function sameAttributes(old, made) {
  for (const { name } of [...old.attributes]) {
    if (!made.hasAttribute(name) && name !== "open") old.removeAttribute(name);
  }
  for (const { name, value } of made.attributes) {
    if (name !== "open" && old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
}

// Makes the old children what the new ones are; a node that has a twin stays itself.
function morph(old, made) {
  const kept = new Map();
  for (const node of old.childNodes) {
    const name = key(node);
    if (!kept.has(name)) kept.set(name, []);
    kept.get(name).push(node);
  }
  let place = old.firstChild;
  for (const wanted of [...made.childNodes]) {
    const twin = kept.get(key(wanted))?.shift();
    if (!twin) {
      old.insertBefore(wanted, place);
      continue;
    }
    if (twin !== place) old.insertBefore(twin, place);
    else place = place.nextSibling;
    if (twin.nodeType !== 1) {
      if (twin.nodeValue !== wanted.nodeValue) twin.nodeValue = wanted.nodeValue;
    } else if (!twin.isEqualNode(wanted)) {
      sameAttributes(twin, wanted);
      morph(twin, wanted);
    }
  }
  for (const nodes of kept.values()) for (const node of nodes) node.remove();
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
    if ("gone" in document.body.dataset) location.reload();
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
