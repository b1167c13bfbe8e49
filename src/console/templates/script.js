// The page works without this script. With it, numbers change as they do in the outbox, and the
// page reports when it no longer receives them.
"use strict";

const banner = document.getElementById("connection");
const live = document.querySelector("[data-live]");
const SILENCE = 15000; // The server sends a sign of life every five seconds.
let source = null;
let watchdog = 0;
const later = new Map(); // Parts by their ids that came while somebody clicked or read.
let isPressed = false;

function say(text) {
  banner.hidden = text === "";
  if (banner.textContent !== text) banner.textContent = text;
}

function heard() {
  clearTimeout(watchdog);
  watchdog = setTimeout(lost, SILENCE);
  say(later.size > 0 && !isPressed ? "The numbers wait while text is selected." : "");
}

function lost() {
  say("Reconnecting. These numbers may be old.");
}

// Whether a click is under way, or text of the live part is selected. What is under the pointer stays.
function isHeld() {
  const chosen = document.getSelection();
  return isPressed || (chosen && !chosen.isCollapsed && chosen.containsNode(live, true));
}

function take(html) {
  const made = document.createElement("template");
  made.innerHTML = html;
  const next = made.content.firstElementChild;
  if (next) later.set(next.id, next);
  catchUp();
}

function catchUp() {
  if (later.size === 0 || isHeld()) return;
  for (const next of later.values()) replace(next);
  later.clear();
}

// Replaces a part by its newer version, and keeps the keyboard's focus where it was.
function replace(next) {
  const now = document.getElementById(next.id);
  if (!now || now.outerHTML === next.outerHTML) return;

  const focused = now.contains(document.activeElement) ? document.activeElement : null;
  const href = focused && focused.getAttribute("href");
  now.replaceWith(next);
  if (href) {
    const same = [...next.querySelectorAll("a")].find((a) => a.getAttribute("href") === href);
    if (same) same.focus({ preventScroll: true });
  }

  worstFirst(next.parentElement);
}

function worstFirst(parent) {
  const rank = (part) => BigInt(part.dataset.rank || 0);
  const parts = [...parent.children].filter((part) => part.dataset.rank);
  const sorted = [...parts].sort((a, b) => (rank(b) > rank(a) ? 1 : rank(b) < rank(a) ? -1 : 0));
  if (sorted.some((part, at) => part !== parts[at])) parent.append(...sorted);
}

function connect() {
  source = new EventSource(live.dataset.live);
  source.addEventListener("open", heard);
  source.addEventListener("alive", heard);
  source.addEventListener("part", (event) => {
    take(event.data);
    heard();
  });
  source.addEventListener("error", (event) => {
    lost();
    // Refused: the browser doesn't try again by itself.
    if (event.target === source && source.readyState === EventSource.CLOSED) askWhy();
  });
  watchdog = setTimeout(lost, SILENCE);
}

async function askWhy() {
  source = null;
  const asking = new AbortController();
  try {
    const answer = await fetch(live.dataset.live, { redirect: "manual", signal: asking.signal });
    asking.abort();
    // A proxy with single sign-on leads elsewhere.
    if (answer.status === 401 || answer.type === "opaqueredirect") return signedOut();
  } catch {
    // Nobody answers: that is what the page shows.
  }
  setTimeout(watchWhileSeen, 5000);
}

function signedOut() {
  clearTimeout(watchdog);
  say("You are signed out. These numbers may be old. ");
  const link = document.createElement("a");
  link.href = "/sign-in?next=" + encodeURIComponent(location.pathname + location.search);
  link.textContent = "Sign in";
  banner.append(link);
}

function press() {
  isPressed = true;
}

// A click ends behind this event.
function release() {
  isPressed = false;
  setTimeout(catchUp, 0);
}

// A browser has six connections for a host: a page that nobody sees gives its own back.
function watchWhileSeen() {
  if (document.visibilityState === "visible") {
    if (!source) connect();
  } else if (source) {
    source.close();
    source = null;
    clearTimeout(watchdog);
  }
}

if (live) {
  document.addEventListener("visibilitychange", watchWhileSeen);
  document.addEventListener("selectionchange", catchUp);
  document.addEventListener("pointerdown", press);
  for (const end of ["pointerup", "pointercancel"]) document.addEventListener(end, release);
  window.addEventListener("blur", release);
  watchWhileSeen();
}
