// What the browser does by itself: refreshing, dialogs, keys, the theme, copying, selecting, and charts.
// Everything that is shown comes from the server as HTML; nothing here makes any out of data.
"use strict";
(() => {
  const root = document.documentElement;
  const one = (query, inside = document) => inside.querySelector(query);
  const all = (query, inside = document) => [...inside.querySelectorAll(query)];

  // -- refreshing: the stream of the page, as often as asked; it closes itself in hidden tabs

  const live = one("#live");
  const refresh = one("[data-refresh]");
  const pulse = one("[data-pulse]");
  const wanted = localStorage.getItem("postbus-refresh") || "2";
  if (refresh) refresh.value = [...refresh.options].some((o) => o.value === wanted) ? wanted : "2";
  if (live && refresh && refresh.value !== "off") {
    const address = new URL(live.dataset.live, location.href);
    address.searchParams.set("live", refresh.value);
    live.setAttribute("hx-sse:connect", address.pathname + address.search);
  }
  refresh?.addEventListener("change", () => setRefresh(refresh.value));

  function setRefresh(value) {
    if (value !== "off") localStorage.setItem("postbus-refresh-last", value);
    localStorage.setItem("postbus-refresh", value);
    location.reload();
  }

  function show(state) {
    if (pulse) pulse.className = "pulse " + state;
  }
  document.addEventListener("htmx:sse:after:connection", () => show("on"));
  document.addEventListener("htmx:sse:error", () => show("lost"));
  document.addEventListener("htmx:sse:close", () => show(""));
  document.addEventListener("htmx:sse:after:message", () => {
    show("on");
    root.dataset.ticks = String(Number(root.dataset.ticks || 0) + 1);
    follow();
    counted();
    draw();
  });

  // -- how long ago: counted on here, so that a page on which only time has passed need not be sent again

  const ahead = Date.now() - Date.parse(root.dataset.now);
  const units = [["d", 86400], ["h", 3600], ["m", 60], ["s", 1]];
  function span(seconds) {
    if (seconds < 10) return `${seconds.toFixed(1)} s`;
    let left = Math.floor(seconds);
    const parts = units.map(([unit, size]) => { const count = Math.floor(left / size); left %= size; return [count, unit]; });
    const first = parts.findIndex(([count]) => count);
    return parts.slice(first, first + 2).filter(([count]) => count).map((part) => part.join(" ")).join(" ");
  }
  function grow() {
    if (document.hidden) return;
    for (const time of all("time[datetime]")) {
      const ago = (Date.now() - ahead - Date.parse(time.dateTime)) / 1000;
      const said = ago >= 1 ? `${span(ago)} ago` : ago <= -1 ? `in ${span(-ago)}` : "now";
      if (time.textContent !== said) time.textContent = said;
    }
  }
  setInterval(grow, 1000);
  document.addEventListener("visibilitychange", grow);

  // -- dialogs

  const dialog = one("#dialog");
  document.addEventListener("htmx:after:swap", (event) => {
    if (one("#dialog-body")?.childElementCount && !dialog.open && event.target !== live) {
      dialog.showModal();
      one("[autofocus]", dialog)?.focus();
    }
  });
  dialog?.addEventListener("close", () => {
    one("#dialog-body").replaceChildren();
  });
  document.addEventListener("click", (event) => {
    const button = event.target.closest?.("button");
    if (!button) return;
    if ("close" in button.dataset) dialog.close();
    if ("help" in button.dataset) one("#help").showModal();
    if ("themeTurn" in button.dataset) turnTheme();
    if ("copy" in button.dataset) copy(button.dataset.copy);
  });

  async function copy(text) {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // Plain http has no clipboard but this one.
      const field = document.createElement("textarea");
      field.value = text;
      (dialog.open ? dialog : document.body).append(field);
      field.select();
      document.execCommand("copy");
      field.remove();
    }
    say("Copied");
  }

  let saying;
  function say(text) {
    const toast = one("#said");
    toast.textContent = text;
    toast.hidden = false;
    clearTimeout(saying);
    saying = setTimeout(() => { toast.hidden = true; }, 1600);
  }

  // -- the theme

  function nameTheme() {
    const name = one("[data-theme-name]");
    if (name) name.textContent = { light: "Light", dark: "Dark" }[root.dataset.theme] || "System";
  }
  function turnTheme() {
    const next = { undefined: "light", light: "dark", dark: undefined }[root.dataset.theme];
    if (next) root.dataset.theme = next; else delete root.dataset.theme;
    if (next) localStorage.setItem("postbus-theme", next); else localStorage.removeItem("postbus-theme");
    nameTheme();
    redraw();
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => redraw());
  nameTheme();

  // -- rows that are picked

  function counted() {
    const boxes = all('input[name="ids"]');
    if (!boxes.length) return;
    const picked = boxes.filter((box) => box.checked).length;
    for (const place of all("[data-picked]")) place.textContent = String(picked);
    for (const place of all('[data-when="some"]')) place.hidden = picked === 0;
    for (const place of all('[data-when="none"]')) place.hidden = picked !== 0;
    const every = one("[data-pick-all]");
    if (every) { every.checked = picked === boxes.length; every.indeterminate = picked > 0 && picked < boxes.length; }
  }
  document.addEventListener("change", (event) => {
    if ("pickAll" in event.target.dataset) for (const box of all('input[name="ids"]')) box.checked = event.target.checked;
    if (event.target.matches('input[name="ids"], [data-pick-all]')) counted();
  });

  // -- keys

  let at = null;
  let going = 0;
  function move(step) {
    const rows = all("[data-row]");
    if (!rows.length) return;
    const place = rows.findIndex((row) => row.id && row.id === at);
    const next = rows[Math.min(rows.length - 1, Math.max(0, place < 0 ? 0 : place + step))];
    at = next.id || (next.id = "row-" + rows.indexOf(next));
    follow();
    next.scrollIntoView({ block: "nearest" });
  }
  function follow() {
    for (const row of all("[data-row]")) row.classList.toggle("at", at !== null && row.id === at);
  }
  const current = () => (at === null ? null : document.getElementById(at));
  const typing = (target) => target.matches?.("input:not([type=checkbox]), textarea, select") || target.isContentEditable;

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || typing(event.target)) return;
    if (document.querySelector("dialog[open]")) return;
    if (going && Date.now() - going < 10000) {
      going = 0;
      const link = one(`[data-jump="${CSS.escape(event.key)}"]`);
      if (link) { event.preventDefault(); link.click(); }
      return;
    }
    const acts = {
      "?": () => one("#help").showModal(),
      "/": () => one("[data-search]")?.focus(),
      g: () => { going = Date.now(); },
      j: () => move(1),
      k: () => move(-1),
      x: () => { const box = current() && one('input[name="ids"]', current()); if (box) { box.checked = !box.checked; counted(); } },
      Enter: () => current() && one("a[href]", current())?.click(),
      p: () => setRefresh(refresh.value === "off" ? localStorage.getItem("postbus-refresh-last") || "2" : "off"),
      T: () => turnTheme(),
    };
    if (event.key === "Enter" && (event.target.matches("a, button, summary") || !current())) return;
    if (Object.hasOwn(acts, event.key)) { event.preventDefault(); acts[event.key](); }
  });

  // -- charts: drawn from the numbers that the page names, in the colours of the theme

  const charts = new Map();
  const kinds = {
    flow: [["published", "Published", "--ready"], ["handled", "Handled", "--done"], ["failed", "Failed", "--dead"]],
    delay: [["delay_p50", "Median", "--running"], ["delay_p95", "95 %", "--retrying"]],
  };
  function colour(name) {
    const probe = document.createElement("span");
    probe.hidden = true;
    probe.style.color = `var(${name})`;
    document.body.append(probe);
    const found = getComputedStyle(probe).color;
    probe.remove();
    return found;
  }
  const rate = (value) => (value == null ? "–" : value.toLocaleString("en", { maximumFractionDigits: value < 10 ? 1 : 0 }));
  const time = (value) => (value == null ? "–" : value < 1 ? `${Math.round(value * 1000)} ms` : `${value.toLocaleString("en", { maximumFractionDigits: 1 })} s`);

  async function draw() {
    const places = all("[data-chart]");
    if (!places.length || typeof uPlot === "undefined") return;
    const answers = new Map();
    for (const place of places) {
      const source = place.dataset.src;
      if (!answers.has(source)) answers.set(source, fetch(source, { headers: { "X-Postbus": "1" } }).then((r) => (r.ok ? r.json() : null)));
      const data = await answers.get(source);
      if (data?.at) chart(place, data);
    }
  }
  function chart(place, data) {
    const lines = kinds[place.dataset.chart];
    const columns = [data.at, ...lines.map(([name]) => data[name])];
    const known = charts.get(place.id);
    if (known && known.place === place) { known.plot.setData(columns); newest(known.plot); return; }
    const say = place.dataset.chart === "flow" ? rate : time;
    const soft = colour("--soft"), rule = colour("--rule");
    const font = "12px " + getComputedStyle(document.body).fontFamily;
    const hours = (_u, ticks) => ticks.map((tick) => new Date(tick * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hour12: false }));
    const axis = { stroke: soft, font, grid: { stroke: rule, width: 1 }, ticks: { show: false } };
    const plot = new uPlot({
      width: place.clientWidth, height: place.clientHeight - 28, padding: [10, 22, 0, 0],
      cursor: { y: false, points: { size: 6 } },
      hooks: { setCursor: [(u) => { if (u.cursor.left < 0) setTimeout(() => newest(u)); }] },
      scales: { y: { range: (_u, _low, high) => [0, high > 0 ? high * 1.1 : 1] } },
      axes: [{ ...axis, size: 30, values: hours, incrs: [60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600] }, { ...axis, size: 62, values: (_u, ticks) => ticks.map(say) }],
      series: [
        { value: (_u, at) => (at == null ? "–" : new Date(at * 1000).toLocaleTimeString([], { hour12: false })) },
        ...lines.map(([, label, name]) => ({ label, stroke: colour(name), width: 1.8, spanGaps: true, points: { show: false }, value: (_u, v) => say(v), fill: name === "--dead" ? undefined : colour(name).replace(/\)$/, " / 0.07)") })),
      ],
    }, columns, place);
    charts.set(place.id, { plot, place });
    newest(plot);
  }
  // What the legend says while nobody points at anything: the values of now.
  function newest(plot) {
    if (plot.cursor.idx == null) plot.setLegend({ idx: plot.data[0].length - 1 }, false);
  }
  function redraw() {
    for (const { plot } of charts.values()) plot.destroy();
    charts.clear();
    draw();
  }
  addEventListener("resize", () => {
    for (const { plot, place } of charts.values()) plot.setSize({ width: place.clientWidth, height: place.clientHeight - 28 });
  });
  addEventListener("load", () => draw());
  counted();
  // On a phone the line is longer than the screen: show where on it this page is.
  const line = one("#route");
  const here = one("#route [aria-current]");
  if (line && here && line.scrollWidth > line.clientWidth) line.scrollLeft = here.offsetLeft - line.clientWidth / 2 + here.offsetWidth / 2;
})();
