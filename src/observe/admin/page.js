"use strict";
// Fetches the page again and again, and replaces what has changed. The gateway renders everything.
(() => {
  const PAUSE_MS = 2000;
  const find = document.getElementById("find");
  let turn = 0, timer;
  // A text that is being selected, or a link with the focus, must not vanish under the reader.
  const isSelected = (part) => {
    const selection = getSelection();
    return !selection.isCollapsed && part.contains(selection.anchorNode);
  };
  const update = (part, fresh) => {
    if (part.className !== fresh.className) part.className = fresh.className;
    if (part.innerHTML === fresh.innerHTML || isSelected(part)) return;
    const focused = [...part.querySelectorAll("a")].indexOf(document.activeElement);
    part.replaceChildren(...fresh.childNodes);
    if (focused >= 0) part.querySelectorAll("a")[focused]?.focus({ preventScroll: true });
  };
  const refresh = async () => {
    clearTimeout(timer);
    const mine = ++turn;
    try {
      const response = await fetch(location.href, { cache: "no-store", signal: AbortSignal.timeout(5000) });
      const page = new DOMParser().parseFromString(await response.text(), "text/html");
      // A later search has been sent meanwhile.
      if (mine !== turn) return;
      document.title = page.title;
      for (const part of document.querySelectorAll("[data-live]")) {
        const fresh = page.getElementById(part.id);
        if (fresh) update(part, fresh);
      }
    } catch {
      if (mine !== turn) return;
      const state = document.getElementById("state");
      state.className = "critical";
      state.textContent = "no response from the gateway: these figures are old";
    }
    // After the response, not every 2 s: slow responses must not pile up.
    timer = setTimeout(refresh, PAUSE_MS);
  };
  const search = (event) => {
    event.preventDefault();
    const query = find.value ? "?" + new URLSearchParams({ find: find.value }) : location.pathname;
    history.replaceState(null, "", query);
    refresh();
  };
  find.addEventListener("input", search);
  find.form.addEventListener("submit", search);
  timer = setTimeout(refresh, PAUSE_MS);
})();
