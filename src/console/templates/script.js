// The page works without this script. With it, numbers change as they do in the outbox, and the
// page reports when it no longer receives them.
"use strict";

const banner = document.getElementById("connection");
const live = document.querySelector("[data-live]");
const SILENCE = 15000; // The server sends a sign of life every five seconds.
let source = null;
let watchdog = 0;

function say(text) {
  banner.hidden = text === "";
  if (banner.textContent !== text) banner.textContent = text;
}

function heard() {
  clearTimeout(watchdog);
  watchdog = setTimeout(lost, SILENCE);
  say("");
}

function lost() {
  say("Reconnecting. These numbers may be old.");
}

// Replaces a part by its newer version, and keeps the keyboard's focus where it was.
function replace(html) {
  const made = document.createElement("template");
  made.innerHTML = html;
  const next = made.content.firstElementChild;
  const now = next && document.getElementById(next.id);
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
    heard();
    replace(event.data);
  });
  source.addEventListener("error", () => {
    lost();
    // Signed out, or refused: the browser doesn't try again by itself.
    if (source.readyState === EventSource.CLOSED) setTimeout(connect, 5000);
  });
  watchdog = setTimeout(lost, SILENCE);
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
  watchWhileSeen();
}
