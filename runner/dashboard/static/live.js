// Keeps the page as it is now: whenever the server says that it may have changed, it is fetched again and its <main> replaced.
// Without this, a page is what it was when it was loaded.
"use strict";

(() => {
  const main = () => document.querySelector("main[data-live]");
  if (!main() || !window.EventSource) return;

  let source = null;
  let fetching = false;
  let again = false;
  let skipped = false;
  let pressed = false;
  let releasing = 0;
  // Milliseconds before the next try to open a stream that the server refused.
  let pause = 1000;

  // By what an element is found in the next version of the page.
  const key = (element) => element.id || element.dataset.key || "";

  function replace(text) {
    const next = new DOMParser().parseFromString(text, "text/html");
    const fresh = next.querySelector("main[data-live]");
    const old = main();
    if (!fresh || !old) {
      // Such as a page that asks to log in.
      location.reload();
      return;
    }
    if (fresh.isEqualNode(old)) return;
    const states = new Map();
    old.querySelectorAll("details").forEach((element) => key(element) && states.set(key(element), element.open));
    fresh.querySelectorAll("details").forEach((element) => {
      if (states.has(key(element))) element.open = states.get(key(element));
    });
    const offsets = new Map();
    old.querySelectorAll("[data-scroll]").forEach((element) => offsets.set(key(element), element.scrollTop));
    const active = document.activeElement;
    const focused = active && old.contains(active) ? key(active) : "";
    const [x, y] = [scrollX, scrollY];
    old.replaceWith(document.adoptNode(fresh));
    document.title = next.title;
    fresh.querySelectorAll("[data-scroll]").forEach((element) => {
      if (offsets.has(key(element))) element.scrollTop = offsets.get(key(element));
    });
    const target = focused && (document.getElementById(focused) ||
      [...fresh.querySelectorAll("[data-key]")].find((element) => element.dataset.key === focused));
    if (target) target.focus({ preventScroll: true });
    scrollTo(x, y);
  }

  // What somebody is typing, or has selected, is not taken away; nor what is pressed: it would not be clicked when it is let go.
  function isInUse() {
    const active = document.activeElement;
    const types = active && main().contains(active) && /^(INPUT|SELECT|TEXTAREA)$/.test(active.tagName);
    const selection = getSelection();
    return pressed || types || (selection && !selection.isCollapsed && main().contains(selection.anchorNode));
  }

  async function refresh() {
    if (fetching) {
      again = true;
      return;
    }
    fetching = true;
    try {
      do {
        again = false;
        const answer = await fetch(location.href, { headers: { "X-Dashboard-Live": "1" } });
        const text = await answer.text();
        if (answer.status === 401) location.reload();
        else if (isInUse()) skipped = true;
        else replace(text);
      } while (again);
    } catch {
      // The operator is being restarted, or cannot be reached: the stream comes again, and with it this.
    } finally {
      fetching = false;
    }
  }

  function mark(state) {
    document.documentElement.dataset.connection = state;
  }

  function open() {
    if (source || document.hidden) return;
    source = new EventSource("/live?path=" + encodeURIComponent(location.pathname + location.search));
    source.onopen = () => {
      mark("live");
      pause = 1000;
      // What happened while there was no stream: also between the page and the first one.
      refresh();
    };
    source.onmessage = refresh;
    source.onerror = () => {
      mark("lost");
      if (source.readyState !== EventSource.CLOSED) return;
      source = null;
      refresh();
      setTimeout(open, pause);
      pause = Math.min(2 * pause, 30000);
    };
  }

  function catchUp() {
    if (!skipped) return;
    skipped = false;
    refresh();
  }

  function release() {
    if (!pressed) return;
    clearTimeout(releasing);
    // After the click, which comes next.
    releasing = setTimeout(() => {
      pressed = false;
      catchUp();
    });
  }

  document.addEventListener("focusout", catchUp);
  document.addEventListener("pointerdown", () => {
    clearTimeout(releasing);
    pressed = true;
  }, true);
  for (const name of ["pointerup", "pointercancel"]) document.addEventListener(name, release, true);
  // It may be let go where this page is not told of it.
  document.addEventListener("pointermove", (event) => { if (!event.buttons) release(); }, true);
  // A browser has few connections to one host: a page that nobody sees needs none.
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) {
      open();
    } else if (source) {
      source.close();
      source = null;
    }
  });
  // Also when nothing happens: a page says how long ago things were, and when they come.
  setInterval(() => { if (source && !document.hidden) refresh(); }, 30000);
  open();
})();
