"use strict";

// Keys, and a quiet refresh of the overview. Every page works without this file.

(() => {
  document.documentElement.classList.add("has-keys");

  // --- keys --------------------------------------------------------------------

  const places = {
    f: "/ui/",
    d: "/ui/devices",
    p: "/ui/policies",
    r: "/ui/releases",
    e: "/ui/enrolment",
    a: "/ui/audit",
  };
  const keys = document.getElementById("keys");
  let going = 0;
  let row = null;

  const rows = () => [...document.querySelectorAll("tr[data-row]")];
  const isTyping = (element) =>
    element instanceof HTMLElement && element.matches("input, textarea, select, [contenteditable]");

  function step(by) {
    const all = rows();
    if (all.length === 0) return;
    const at = row ? all.indexOf(row) : -1;
    const next = at < 0 ? (by > 0 ? 0 : all.length - 1) : at + by;
    row?.classList.remove("at");
    row = all[Math.min(Math.max(next, 0), all.length - 1)];
    row.classList.add("at");
    row.querySelector("a")?.focus({ preventScroll: true });
    row.scrollIntoView({ block: "nearest" });
  }

  function search() {
    const field = document.querySelector("[data-search]");
    if (field) {
      field.focus();
      field.select();
    } else {
      location.assign("/ui/devices#search");
    }
  }

  document.addEventListener("keydown", (event) => {
    noteUse();
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (isTyping(event.target)) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    if (keys.open) return;
    const went = event.timeStamp - going < 1500 && going > 0;
    going = 0;
    if (went && places[event.key]) {
      location.assign(places[event.key]);
    } else if (event.key === "g") {
      going = event.timeStamp;
    } else if (event.key === "/") {
      search();
    } else if (event.key === "j") {
      step(1);
    } else if (event.key === "k") {
      step(-1);
    } else if (event.key === "?") {
      keys.showModal();
    } else {
      return;
    }
    event.preventDefault();
  });

  if (location.hash === "#search") search();

  // --- quiet refresh --------------------------------------------------------------

  const EVERY_MS = 15000;
  const note = document.getElementById("live-note");
  let used = false;

  function noteUse() {
    used = true;
  }

  async function refresh() {
    const live = document.querySelector("[data-live]");
    if (!live || document.hidden) return true;
    // A refresh that nobody has caused keeps no session alive.
    const headers = used ? {} : { "x-hwtrust-quiet": "1" };
    used = false;
    let answer;
    try {
      answer = await fetch(location.href, { headers, redirect: "manual", cache: "no-store" });
    } catch {
      note.textContent = "The backend does not answer; trying again.";
      return true;
    }
    if (answer.type === "opaqueredirect") {
      note.textContent = "Signed out: reload the page to sign in.";
      return false;
    }
    if (!answer.ok) {
      note.textContent = `The backend answers ${answer.status}; trying again.`;
      return true;
    }
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    const came = fresh.querySelector("[data-live]");
    if (!came) return false;
    replace(live, came);
    document.title = fresh.title;
    document.querySelector(".head p")?.replaceWith(fresh.querySelector(".head p"));
    note.textContent = "";
    return true;
  }

  function replace(live, came) {
    const open = [...live.querySelectorAll("details[open]")].map((each) => each.id);
    const focused = live.contains(document.activeElement)
      ? document.activeElement.getAttribute("href")
      : null;
    for (const id of open) came.querySelector(`#${CSS.escape(id)}`)?.setAttribute("open", "");
    live.replaceWith(came);
    row = null;
    if (focused) {
      const again = [...came.querySelectorAll("a")].find((a) => a.getAttribute("href") === focused);
      again?.focus({ preventScroll: true });
      row = again?.closest("tr[data-row]") ?? null;
      row?.classList.add("at");
    }
  }

  if (document.querySelector("[data-live]")) {
    document.addEventListener("pointerdown", noteUse);
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden) refresh();
    });
    const timer = setInterval(async () => {
      if (!(await refresh())) clearInterval(timer);
    }, EVERY_MS);
  }
})();
