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

  // The forms, by id, in which somebody has entered something.
  const edited = new Set();

  // The element of the next version of the page that is the same as one of this version.
  function counterpart(element, old, fresh) {
    if (element.id) return fresh.querySelector(`#${CSS.escape(element.id)}`);
    const link = element.getAttribute("href");
    const alike = (page) => [...page.querySelectorAll(element.tagName)].filter((each) => each.getAttribute("href") === link);
    return alike(fresh)[alike(old).indexOf(element)];
  }

  function isChanged(field) {
    if (field.type === "radio") return field.checked !== field.defaultChecked;
    if (field.tagName === "SELECT") {
      return field.selectedIndex !== Math.max(0, [...field.options].findIndex((option) => option.defaultSelected));
    }
    return field.type !== "hidden" && field.value !== field.defaultValue;
  }

  // What was entered stays, of a form all of it: one choice was made in view of the others.
  function keepEntered(old, fresh) {
    for (const form of old.querySelectorAll("form[id]")) {
      const fields = [...form.elements].filter((field) => field.id && field.matches("input, select, textarea"));
      if (!edited.has(form.id) && !fields.some(isChanged)) continue;
      for (const field of fields) {
        const next = counterpart(field, old, fresh);
        if (!next) continue;
        if (field.type === "radio") next.checked = field.checked || next.checked;
        else if (field.tagName !== "SELECT") next.value = field.value;
        else if ([...next.options].some((option) => option.value === field.value)) next.value = field.value;
      }
    }
  }

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
    for (const element of old.querySelectorAll("details[id]")) {
      const same = counterpart(element, old, fresh);
      if (same) same.open = element.open;
    }
    keepEntered(old, fresh);
    const active = document.activeElement;
    const target = active && old.contains(active) && counterpart(active, old, fresh);
    const [x, y] = [scrollX, scrollY];
    old.replaceWith(document.adoptNode(fresh));
    document.title = next.title;
    if (target) target.focus({ preventScroll: true });
    scrollTo(x, y);
  }

  // What somebody is typing, or has selected, is not taken away; nor what is pressed: it would not be clicked when it is let go.
  function isInUse() {
    const active = document.activeElement;
    const types = active && main().contains(active) && active.matches("input:not([type=radio]), select, textarea");
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

  function press() {
    clearTimeout(releasing);
    pressed = true;
  }

  document.addEventListener("input", (event) => {
    if (event.target.form?.id) edited.add(event.target.form.id);
  });
  document.addEventListener("focusout", catchUp);
  document.addEventListener("pointerdown", press, true);
  for (const name of ["pointerup", "pointercancel", "keyup"]) document.addEventListener(name, release, true);
  // A button is pressed by the space bar as well.
  document.addEventListener("keydown", (event) => { if (event.key === " ") press(); }, true);
  window.addEventListener("blur", release);
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
