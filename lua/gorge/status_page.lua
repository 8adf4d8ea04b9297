-- SPDX-License-Identifier: MIT
-- The page of status.lua: one document without any other file. Its script asks the same address for JSON, keeps the last minutes in memory, and draws.
-- Figures over time are differences of counters between two looks, by the server's clock.

return [==[<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{{title}}</title>
<link rel="icon" href="data:,">
<style nonce="{{nonce}}">
:root {
  color-scheme: light dark;
  --page: #f5f6f8; --card: #ffffff; --line: #e3e6eb; --grid: #edeff3; --text: #161a22; --soft: #5a6473;
  --l0: #2a62d8; --l1: #1a98a6; --l2: #e0a12b; --fn: #cf4a68; --good: #1c7f4b; --bad: #bf2b40; --warn: #96650a; --wash: #f9e7ea;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #0f1218; --card: #171b23; --line: #272d38; --grid: #222833; --text: #eceff4; --soft: #98a2b3;
    --l0: #6c9cff; --l1: #3fbdca; --l2: #efbd5c; --fn: #f07d95; --good: #56c98b; --bad: #ff8090; --warn: #eab960; --wash: #3a1d24;
  }
}
* { box-sizing: border-box; margin: 0; }
body { background: var(--page); color: var(--text); font: 15px/1.5 system-ui, "Segoe UI", Roboto, sans-serif; }
main, header, footer { max-width: 1120px; margin: 0 auto; padding: 0 24px; }
header { display: flex; align-items: baseline; gap: 12px; padding-top: 28px; }
h1 { font-size: 22px; font-weight: 650; letter-spacing: -.01em; }
.meta { color: var(--soft); font-size: 13px; }
.live { margin-left: auto; white-space: nowrap; }
.live::before { content: ""; display: inline-block; width: 8px; height: 8px; border-radius: 50%; background: var(--good);
  margin-right: 7px; }
.live.off::before { background: var(--bad); }
section { margin: 20px 0 36px; }
.name { display: flex; flex-wrap: wrap; align-items: baseline; gap: 4px 12px; margin-bottom: 12px; }
h2 { font-size: 17px; font-weight: 620; overflow-wrap: anywhere; }
h3 { font-size: 13px; font-weight: 600; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 16px 18px; min-width: 0; }
.alert { background: var(--wash); color: var(--bad); border-radius: 10px; padding: 10px 18px; margin-bottom: 12px; font-weight: 550; }
.alert:empty { display: none; }
.tiles { display: grid; grid-template-columns: repeat(4, 1fr); gap: 12px; margin-bottom: 12px; }
.tile .value { font-size: 30px; font-weight: 620; line-height: 1.2; letter-spacing: -.02em; font-variant-numeric: tabular-nums; }
.tile .value small { font-size: 16px; font-weight: 500; color: var(--soft); letter-spacing: 0; }
.label { color: var(--soft); font-size: 13px; }
.two { display: grid; grid-template-columns: 1fr 1fr; gap: 12px; margin-bottom: 12px; }
.head { display: flex; justify-content: space-between; align-items: baseline; gap: 12px; margin-bottom: 10px; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 14px; font-size: 13px; color: var(--soft); margin-top: 8px; }
.legend span::before { content: ""; display: inline-block; width: 9px; height: 9px; border-radius: 2px; margin-right: 6px; }
.legend b { color: var(--text); font-weight: 560; font-variant-numeric: tabular-nums; }
.k-l0::before { background: var(--l0); } .k-l1::before { background: var(--l1); }
.k-l2::before { background: var(--l2); } .k-fn::before { background: var(--fn); }
svg { display: block; width: 100%; height: 150px; overflow: hidden; }
svg .l0 { fill: var(--l0); } svg .l1 { fill: var(--l1); } svg .l2 { fill: var(--l2); } svg .fn { fill: var(--fn); }
svg .grid { stroke: var(--grid); stroke-width: 1; vector-effect: non-scaling-stroke; }
.axis { display: flex; justify-content: space-between; color: var(--soft); font-size: 12px; margin-top: 4px; }
table { width: 100%; border-collapse: collapse; font-size: 14px; }
th { text-align: right; color: var(--soft); font-weight: 500; font-size: 13px; padding: 0 0 6px 10px; }
td { text-align: right; padding: 7px 0 7px 10px; border-top: 1px solid var(--line); white-space: nowrap;
  font-variant-numeric: tabular-nums; }
th:first-child, td:first-child { text-align: left; padding-left: 0; white-space: normal; }
.pairs td:first-child { color: var(--soft); }
.pairs tr:first-child td { border-top: 0; padding-top: 0; }
.pairs td { overflow-wrap: anywhere; white-space: normal; }
.keys { table-layout: fixed; }
.keys th:not(:first-child) { width: 76px; }
.keys td:first-child { overflow-wrap: anywhere; font-family: ui-monospace, monospace; font-size: 13px; }
.bar { height: 8px; border-radius: 4px; width: 100%; margin-bottom: 14px; }
.bar rect { fill: var(--grid); } .bar .full { fill: var(--l1); }
.good { color: var(--good); } .bad { color: var(--bad); } .warn { color: var(--warn); }
footer { color: var(--soft); font-size: 13px; padding-bottom: 32px; }
a { color: inherit; }
@media (max-width: 760px) {
  main, header, footer { padding-left: 16px; padding-right: 16px; }
  header { padding-top: 18px; }
  .tiles { grid-template-columns: 1fr 1fr; }
  .tile { padding: 12px 14px; }
  .tile .value { font-size: 24px; }
  .two { grid-template-columns: minmax(0, 1fr); }
  .keys th:not(:first-child) { width: 60px; }
  .keys .wide, .keys td:nth-child(4) { display: none; }
}
</style>
</head>
<body>
<header><h1>{{title}}</h1><span class="meta" id="version"></span><span class="meta live" id="live">connecting</span></header>
<main id="caches"><noscript>This page needs JavaScript. <a href="?format=json">JSON</a> and
<a href="?format=prometheus">Prometheus text</a> do not.</noscript></main>
<template id="cache">
<section>
  <div class="name"><h2 data-f="namespace"></h2><span class="meta" data-f="where"></span></div>
  <div class="alert" role="status" data-f="alert"></div>
  <div class="tiles">
    <div class="card tile"><div class="label">Hit ratio</div><div class="value" data-f="ratio"></div>
      <div class="label" data-f="ratio_all"></div></div>
    <div class="card tile"><div class="label">Answers</div><div class="value" data-f="rate"></div>
      <div class="label" data-f="rate_all"></div></div>
    <div class="card tile"><div class="label">Redis</div><div class="value" data-f="redis"></div>
      <div class="label" data-f="redis_more"></div></div>
    <div class="card tile"><div class="label">Circuit breaker</div><div class="value" data-f="breaker"></div>
      <div class="label" data-f="breaker_more"></div></div>
  </div>
  <div class="two">
    <div class="card"><div class="head"><h3>Answers per second, by layer</h3><span class="label" data-f="peak"></span></div>
      <svg data-f="traffic" preserveAspectRatio="none" viewBox="0 0 300 100" role="img"
        aria-label="Answers per second by layer over time"></svg>
      <div class="axis"><span data-f="since1"></span><span>now</span></div>
      <div class="legend"><span class="k-l0">L0 <b data-f="r0"></b></span><span class="k-l1">L1 <b data-f="r1"></b></span>
        <span class="k-l2">L2 <b data-f="r2"></b></span><span class="k-fn">loader <b data-f="r3"></b></span></div></div>
    <div class="card"><div class="head"><h3>Hit ratio, by layer</h3><span class="label">0 to 100 %</span></div>
      <svg data-f="shares" preserveAspectRatio="none" viewBox="0 0 300 100" role="img"
        aria-label="Share of answers by layer over time"></svg>
      <div class="axis"><span data-f="since2"></span><span>now</span></div>
      <div class="legend"><span class="k-l0">L0 <b data-f="s0"></b></span><span class="k-l1">L1 <b data-f="s1"></b></span>
        <span class="k-l2">L2 <b data-f="s2"></b></span><span class="k-fn">loader <b data-f="s3"></b></span></div></div>
  </div>
  <div class="two">
    <div class="card"><div class="head"><h3>Latency</h3><span class="label">since the zone was made</span></div>
      <table><thead><tr><th></th><th>median</th><th>95 %</th><th>99 %</th><th>count</th></tr></thead>
        <tbody data-f="latency"></tbody></table></div>
    <div class="card"><div class="head"><h3>Memory of L1</h3><span class="label" data-f="used"></span></div>
      <svg class="bar" preserveAspectRatio="none" viewBox="0 0 100 1" aria-hidden="true"><rect width="100" height="1"></rect>
        <rect class="full" height="1" data-f="bar"></rect></svg>
      <table class="pairs"><tbody data-f="memory"></tbody></table></div>
  </div>
  <div class="two">
    <div class="card"><div class="head"><h3>Other nodes</h3><span class="label" data-f="listening"></span></div>
      <table class="pairs"><tbody data-f="nodes"></tbody></table></div>
    <div class="card"><div class="head"><h3>This host</h3></div><table class="pairs"><tbody data-f="host"></tbody></table></div>
  </div>
  <div class="card hot" data-f="hot" hidden><div class="head"><h3>Hottest keys</h3>
    <span class="label">share of the hits in L0 and L1</span></div>
    <table class="keys"><thead><tr><th>key</th><th>hits /s</th><th>share</th><th class="wide">size</th></tr></thead>
      <tbody data-f="keys"></tbody></table></div>
</section>
</template>
<footer>Counters are those of the whole host since its shared memory was made. For programs:
<a href="?format=json">JSON</a>, <a href="?format=prometheus">Prometheus</a>.</footer>
<script nonce="{{nonce}}">
"use strict";
const EVERY = {{refresh}}, POINTS = 150, LAYERS = ["l0", "l1", "l2", "fn"];
const caches = new Map();
const whole = new Intl.NumberFormat("en"), short = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
const percent = share => (share >= 0.9995 || share === 0 ? (100 * share).toFixed(0) : (100 * share).toFixed(1)) + " %";
const bytes = n => n < 1024 ? n + " B" : n < 1048576 ? (n / 1024).toFixed(1) + " kB"
  : n < 1073741824 ? (n / 1048576).toFixed(1) + " MB" : (n / 1073741824).toFixed(2) + " GB";
const time = s => s < 1e-3 ? (s * 1e6).toFixed(0) + " µs"
  : s < 1 ? (s * 1e3).toFixed(s < 0.1 ? 1 : 0) + " ms" : s.toFixed(s < 10 ? 1 : 0) + " s";
const perSecond = n => n < 10 ? n.toFixed(1).replace(".0", "") : short.format(n);
const answers = c => [c.l0_hits, c.l1_hits, c.l2_hits, c.loads];
const sum = list => list.reduce((a, b) => a + b, 0);

function fields(section) {
  const out = {};
  for (const node of section.querySelectorAll("[data-f]")) out[node.dataset.f] = node;
  return out;
}
function say(node, text, tone) {
  if (node.textContent !== text) node.textContent = text;
  for (const name of ["good", "bad", "warn"]) node.classList.toggle(name, name === tone);
}
function rows(body, list) {
  body.replaceChildren(...list.map(cells => {
    const row = document.createElement("tr");
    for (const cell of cells) row.appendChild(document.createElement("td")).textContent = cell;
    return row;
  }));
}
function stack(svg, points, top) {
  const x = i => (300 - (points.length - 1 - i) * 300 / (POINTS - 1)).toFixed(1);
  const floor = points.map(() => 0), shapes = [];
  for (const y of [0.5, 50, 99.5]) shapes.push(["line", { class: "grid", x1: 0, x2: 300, y1: y, y2: y }]);
  LAYERS.forEach((layer, k) => {
    const below = floor.map((v, i) => x(i) + "," + (100 - 100 * v / top).toFixed(2));
    points.forEach((p, i) => { floor[i] += p[k]; });
    const above = floor.map((v, i) => x(i) + "," + (100 - 100 * v / top).toFixed(2));
    shapes.push(["polygon", { class: layer, points: above.concat(below.reverse()).join(" ") }]);
  });
  svg.replaceChildren(...shapes.map(([name, attributes]) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const key in attributes) node.setAttribute(key, attributes[key]);
    return node;
  }));
}
function alertOf(c) {
  const said = [];
  if (c.breaker === "open") said.push("The circuit breaker is open: Redis is not asked.");
  else if (c.redis === "down" && c.redis_error) said.push("Redis is not connected: " + c.redis_error + ".");
  if (c.has_origin && c.origin === "open") said.push("The circuit breaker around loaders is open: they are not run.");
  if (c.lag !== undefined && c.lag > c.freshness_bound) said.push("Nothing confirmed from other nodes for " + time(c.lag) + ".");
  return said.join(" ");
}
function tiles(f, c, rate) {
  const all = answers(c), total = sum(all), now = sum(rate);
  say(f.ratio, now > 0 ? percent(1 - rate[3] / now) : total > 0 ? percent(1 - all[3] / total) : "–");
  say(f.ratio_all, total > 0 ? percent(1 - all[3] / total) + " since the start" : "nothing asked yet");
  f.rate.replaceChildren(perSecond(now), Object.assign(document.createElement("small"), { textContent: " /s" }));
  say(f.rate_all, whole.format(total) + " since the start");
  const none = c.redis === "none";
  const idle = c.redis === "down" && !c.redis_error; // the worker that answers has not needed Redis yet
  say(f.redis, none ? "not used" : idle ? "idle" : c.redis,
    none || idle ? "" : c.redis === "ready" ? "good" : c.redis === "down" ? "bad" : "warn");
  say(f.redis_more, none ? "shared memory alone" : c.redis_address || "");
  say(f.breaker, c.has_breaker ? c.breaker : "off",
    !c.has_breaker ? "" : c.breaker === "closed" ? "good" : c.breaker === "open" ? "bad" : "warn");
  say(f.breaker_more, c.has_breaker
    ? "opened " + whole.format(c.breaker_opens) + (c.breaker_opens === 1 ? " time" : " times") : "not configured");
}
function draw(entry, c) {
  const f = entry.fields, history = entry.history, last = history[history.length - 1] || [0, 0, 0, 0];
  say(f.namespace, c.namespace);
  say(f.where, "zone " + c.zone + ", " + c.workers + (c.workers === 1 ? " process" : " processes"));
  say(f.alert, alertOf(c));
  tiles(f, c, last);
  const top = Math.max(1e-9, ...history.map(sum)), now = sum(last);
  say(f.peak, "peak " + perSecond(top < 1e-6 ? 0 : top) + " /s");
  stack(f.traffic, history, top);
  stack(f.shares, history.map(p => { const n = sum(p); return p.map(v => n > 0 ? v / n : 0); }), 1);
  last.forEach((v, k) => { say(f["r" + k], perSecond(v)); say(f["s" + k], now > 0 ? percent(v / now) : "–"); });
  const span = "last " + time(POINTS * EVERY / 1000 < 120 ? POINTS * EVERY / 1000 : 60 * Math.round(POINTS * EVERY / 60000));
  say(f.since1, span); say(f.since2, span);
  rows(f.latency, [["Redis", c.l2_latency], ["Loader", c.load_latency], ["Wait for another's fill", c.wait_latency]]
    .map(([name, l]) => l.count > 0
      ? [name, time(l.p50), time(l.p95), time(l.p99), short.format(l.count)] : [name, "–", "–", "–", "0"]));
  say(f.used, bytes(c.bytes_used) + " of " + bytes(c.bytes_total) + ", " + percent(c.bytes_used / c.bytes_total));
  f.bar.setAttribute("width", 100 * c.bytes_used / c.bytes_total);
  rows(f.memory, [["Values", whole.format(c.entries)], ["Pushed out", whole.format(c.evictions)],
    ["Found expired", whole.format(c.expired)],
    ["Too large", whole.format(c.too_large)]]);
  say(f.listening, c.redis === "none" ? "no Redis" : c.subscribed ? "listening" : "not listening",
    c.redis === "none" ? "" : c.subscribed ? "good" : "bad");
  rows(f.nodes, [["Confirmed up to date", c.lag === undefined ? "never" : c.lag < 1 ? "less than a second ago" : time(c.lag) + " ago"],
    ["Messages heard", whole.format(c.messages)], ["L1 emptied for missed ones", whole.format(c.resyncs)],
    ["Writes that Redis was not told", whole.format(c.dropped_writes)], ["Commands that failed", whole.format(c.l2_errors)]]
    .concat((c.nodes || []).map(n => ["Node " + n.node, n.redis + ", " + n.partitions + " partitions" +
      (c.has_breaker && n.breaker !== "closed" ? ", breaker " + n.breaker : "")])));
  drawKeys(f, c, last);
  rows(f.host, [["Fills running", whole.format(c.fills_running)], ["Loader failures", whole.format(c.load_errors)],
    ["Waits in vain", whole.format(c.wait_timeouts)], ["Workers that died", whole.format(c.worker_deaths)],
    ["Locks taken from them", whole.format(c.lock_takeovers)]].concat(!c.has_origin ? [] : [
    ["Loaders running", whole.format(c.origin_running) + (c.origin_max ? " of " + whole.format(c.origin_max) : "")],
    ["Loaders refused", whole.format(c.origin_refused)], ["Breaker around loaders", c.origin]]));
}
function drawKeys(f, c, last) {
  const keys = Array.isArray(c.hot_keys) ? c.hot_keys : [];
  f.hot.hidden = keys.length === 0;
  rows(f.keys, keys.map(k => [k.key, perSecond(k.share * (last[0] + last[1])), percent(k.share), bytes(k.size)]));
}
function update(data) {
  document.getElementById("version").textContent = data.version;
  for (const c of data.caches) {
    const id = c.namespace + " " + c.zone;
    let entry = caches.get(id);
    if (!entry) {
      const copy = document.getElementById("cache").content.cloneNode(true);
      entry = { fields: fields(copy), history: [] };
      document.getElementById("caches").appendChild(copy);
      caches.set(id, entry);
    }
    const all = answers(c);
    if (entry.last && data.time > entry.time) {
      entry.history.push(all.map((n, k) => Math.max(0, n - entry.last[k]) / (data.time - entry.time)));
      if (entry.history.length > POINTS) entry.history.shift();
    }
    if (!entry.last || data.time > entry.time) { entry.last = all; entry.time = data.time; }
    draw(entry, c);
  }
}
const address = new URL(location.href);
address.searchParams.set("format", "json");
async function look() {
  const live = document.getElementById("live");
  try {
    const response = await fetch(address, { cache: "no-store", credentials: "same-origin" });
    if (!response.ok) throw new Error("status " + response.status);
    update(await response.json());
    live.textContent = "live, every " + EVERY / 1000 + " s";
    live.classList.remove("off");
  } catch (problem) {
    live.textContent = "no answer, trying again";
    live.classList.add("off");
  }
  setTimeout(look, EVERY);
}
look();
</script>
</body>
</html>
]==]
