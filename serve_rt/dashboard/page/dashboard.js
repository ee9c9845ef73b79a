// The page: asks once a second for the newest view and the points it has not seen, and draws the place that the address
// names: #/ · #/app/<app> · #/app/<app>/<deployment> · #/replicas · #/nodes · #/log/<replica id>.
// Everything that comes from the cluster is put in as text, never as HTML.

import { duration, element, plot, short } from "./plots.js";

const EVERY_MS = 1000, SPAN_S = 900, OLD_S = 5, MOST_PLOTTED = 8;
const main = document.getElementById("main");
let view = null, points = [], lastAnswerMs = Date.now(), drawing = false;

async function json(path) {
  const answer = await fetch(path, { signal: AbortSignal.timeout(5000) });
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
}

async function refresh() {
  if (drawing) return;
  drawing = true;
  try {
    const after = points.length ? points[points.length - 1].number : 0;
    const [newest, added] = await Promise.all([json("/api/view"), json(`/api/history?after=${after}`)]);
    if (after && added.length && added[0].number > after + 1) points = [];
    if (after && !added.length && newest.at_s < view.at_s) points = [];  // another process answers at this port
    view = newest;
    points = points.concat(added).filter((point) => point.at_s > newest.at_s - SPAN_S);
    lastAnswerMs = Date.now();
    draw();
  } catch (error) {
    console.warn(error);
  } finally {
    drawing = false;
    showAge();
  }
}

function showAge() {
  const silentS = (Date.now() - lastAnswerMs) / 1000;
  const age = document.getElementById("age");
  const old = silentS > OLD_S || (view && view.status.age_s > OLD_S);
  age.classList.toggle("old", Boolean(old));
  if (silentS > OLD_S) age.textContent = `no answer for ${duration(silentS)}: has serve dashboard ended?`;
  else if (old) age.textContent = `the store was last read ${duration(view.status.age_s)} ago`;
  else age.textContent = view ? "live" : "";
}

// --- words and tables --------------------------------------------------------------------------------------------------

const GOOD = new Set(["RUNNING", "HEALTHY", "READY", "SERVING", "schedulable"]);
const BAD = new Set(["DEPLOY_FAILED", "UNHEALTHY", "FAILED", "LOST", "REFUSED"]);

function word(state) {
  const made = element("span", state);
  made.className = GOOD.has(state) ? "good" : BAD.has(state) ? "bad" : "busy";
  return made;
}

function link(text, ...place) {
  const made = element("a", text);
  made.href = "#/" + place.map(encodeURIComponent).join("/");
  return made;
}

/** columns: [[heading, row => text or node, isNumber]]. */
function table(name, columns, rows) {
  const box = element("div"), made = element("table"), head = made.createTHead().insertRow(), body = made.createTBody();
  box.className = "wide";
  made.dataset.name = name;
  for (const [heading, , isNumber] of columns) {
    const cell = element("th", heading);
    if (isNumber) cell.className = "number";
    head.append(cell);
  }
  for (const row of rows) {
    const line = body.insertRow();
    for (const [, show, isNumber] of columns) {
      const cell = line.insertCell();
      if (isNumber) cell.className = "number";
      cell.append(...[show(row) ?? ""].flat());
    }
  }
  if (!rows.length) {
    const cell = body.insertRow().insertCell();
    cell.colSpan = columns.length;
    cell.className = "quiet";
    cell.textContent = "none";
  }
  box.append(made);
  return box;
}

function facts(pairs) {
  const list = element("dl");
  for (const [name, value] of pairs) {
    if (value === "" || value === null || value === undefined) continue;
    const shown = element("dd");
    shown.append(...[value].flat());
    list.append(element("dt", name), shown);
  }
  return list;
}

function heading(...parts) {
  const made = element("h2");
  made.append(...parts);
  return made;
}

const message = (text) => (text && text.includes("\n") ? element("pre", text) : text || "");
const decimals = (value) => (value === null || value === undefined ? "–" : short(value));
const ms = (value) => (value === null || value === undefined ? "–" : `${short(value)} ms`);
const states = (counts) => Object.entries(counts).map(([state, count]) => `${count} ${state}`).join(", ") || "none";
const newest = () => points[points.length - 1] ?? { applications: {}, deployments: {} };

function since(wallS) {
  return wallS ? `${new Date(wallS * 1000).toLocaleString()} (${duration(Math.max(0, view.at_s - wallS))} ago)` : "";
}

// --- plots -------------------------------------------------------------------------------------------------------------

function curve(name, read) {
  return { name, points: points.map((point) => [point.at_s, read(point) ?? null]) };
}

function plots(...figures) {
  const box = element("div");
  box.className = "plots";
  box.append(...figures);
  return box;
}

const options = (unit) => ({ nowS: view.at_s, spanS: Math.min(SPAN_S, Math.max(60, view.at_s - (points[0]?.at_s ?? view.at_s))), unit });

function trafficPlots(apps) {
  const each = (read) => apps.map((app) => curve(app, (point) => point.applications[app] && read(point.applications[app])));
  const figures = [plot("Requests per second", each((t) => t.requests_per_s), options("")), plot("Errors per second", each((t) => t.errors_per_s), options(""))];
  if (apps.length === 1) {
    const percentiles = ["p50_ms", "p90_ms", "p99_ms"].map((key) => curve(key.slice(0, 3), (point) => point.applications[apps[0]]?.[key]));
    figures.push(plot("Latency", percentiles, options("ms")));
  } else {
    figures.push(plot("Latency p99", each((t) => t.p99_ms), options("ms")));
  }
  return figures;
}

function deploymentPlots(key, title) {
  const read = (name) => curve(name, (point) => point.deployments[key]?.[name]);
  return [
    plot(`Replicas${title}`, [read("running"), { ...read("target"), dashed: true }, curve("starting or stopping", (point) => point.deployments[key]?.others)], options("")),
    plot(`Demand${title}`, [read("ongoing"), read("queued")], options("requests")),
  ];
}

function replicaPlot(keys) {
  return plot("Replicas that run", keys.map((key) => curve(key, (point) => point.deployments[key]?.running)), options(""));
}

// --- places ------------------------------------------------------------------------------------------------------------

function replicas() {
  return view.nodes.nodes.flatMap((node) => node.replicas.map((replica) => ({ ...replica, node_id: node.node_id })));
}

function replicaTable(rows) {
  return table("replicas", [
    ["replica", (r) => link(r.replica_id, "log", r.replica_id)],
    ["node", (r) => r.node_id],
    ["state", (r) => word(r.state)],
    ["pid", (r) => (r.pid ? String(r.pid) : "–"), true],
    ["incarnation", (r) => String(r.incarnation), true],
    ["CPU", (r) => short(r.milli_cpu / 1000), true],
    ["GPU", (r) => Object.entries(r.devices).map(([uuid, milli]) => `${milli / 1000} of ${uuid.slice(0, 12)}`).join(", ") || "–"],
    ["message", (r) => message(r.message)],
  ], rows);
}

function applications() {
  const rows = Object.entries(view.status.applications);
  const now = newest();
  const traffic = ([name]) => now.applications[name];
  const apps = rows.map(([name]) => name).sort((a, b) => (now.applications[b]?.requests_per_s ?? 0) - (now.applications[a]?.requests_per_s ?? 0)).slice(0, MOST_PLOTTED);
  const keys = rows.flatMap(([name, app]) => Object.keys(app.deployments).map((deployment) => `${name}#${deployment}`)).slice(0, MOST_PLOTTED);
  return [
    element("h2", "Applications"),
    table("applications", [
      ["name", ([name]) => link(name, "app", name)],
      ["status", ([, app]) => word(app.status)],
      ["route prefix", ([, app]) => app.route_prefix ?? "–"],
      ["deployments", ([, app]) => String(Object.keys(app.deployments).length), true],
      ["replicas", ([, app]) => String(Object.values(app.deployments).reduce((sum, one) => sum + (one.replica_states.RUNNING ?? 0), 0)), true],
      ["requests/s", (row) => decimals(traffic(row)?.requests_per_s), true],
      ["errors/s", (row) => decimals(traffic(row)?.errors_per_s), true],
      ["p50", (row) => ms(traffic(row)?.p50_ms), true],
      ["p99", (row) => ms(traffic(row)?.p99_ms), true],
      ["deployed", ([, app]) => since(app.last_deployed_time_s)],
      ["message", ([, app]) => message(app.message)],
    ], rows),
    plots(...trafficPlots(apps), replicaPlot(keys)),
  ];
}

function application(name) {
  const app = view.status.applications[name];
  if (!app) return [element("h2", name), element("p", "There is no application of this name now.")];
  const now = newest();
  return [
    element("h2", `Application ${name}`),
    facts([
      ["status", word(app.status)], ["message", message(app.message)], ["route prefix", app.route_prefix ?? "none"],
      ["imported from", app.import_path], ["deployed", since(app.last_deployed_time_s)],
    ]),
    table("deployments", [
      ["deployment", ([key]) => link(key, "app", name, key)],
      ["status", ([, one]) => word(one.status)],
      ["because", ([, one]) => one.status_trigger],
      ["replicas", ([, one]) => states(one.replica_states)],
      ["ongoing", ([key]) => decimals(now.deployments[`${name}#${key}`]?.ongoing), true],
      ["queued", ([key]) => decimals(now.deployments[`${name}#${key}`]?.queued), true],
      ["message", ([, one]) => message(one.message)],
    ], Object.entries(app.deployments)),
    plots(...trafficPlots([name]), ...Object.keys(app.deployments).slice(0, MOST_PLOTTED).flatMap((key) => deploymentPlots(`${name}#${key}`, ` of ${key}`))),
    element("h2", "Versions"),
    table("versions", [
      ["number", (one) => String(one.number), true], ["state", (one) => word(one.state)],
      ["deployed", (one) => since(one.deployed_time_s)], ["message", (one) => message(one.message)],
    ], app.versions),
  ];
}

function deployment(app, name) {
  const one = view.status.applications[app]?.deployments[name];
  if (!one) return [element("h2", `${app} / ${name}`), element("p", "There is no deployment of this name now.")];
  const scaling = view.scaling.deployments.find((found) => found.app === app && found.deployment === name);
  const scaled = scaling ? [
    ["autoscaling", `${scaling.target} wanted, ${scaling.running} running, ${scaling.min_replicas} to ${scaling.max_replicas} allowed`],
    ["next", scaling.wait_s === null ? `stays at ${scaling.target}` : `${scaling.aim} replicas in ${scaling.wait_s.toFixed(1)} s, if it stays like this`],
    ["why", scaling.why], ["policy", scaling.policy],
  ] : [["autoscaling", "off: a fixed number of replicas"]];
  return [
    heading("Deployment ", link(app, "app", app), ` / ${name}`),
    facts([["status", word(one.status)], ["because", one.status_trigger], ["message", message(one.message)], ["replicas", states(one.replica_states)], ...scaled]),
    plots(...deploymentPlots(`${app}#${name}`, "")),
    element("h2", "Replicas"),
    replicaTable(replicas().filter((replica) => replica.replica_id.startsWith(`${app}#${name}#`))),
  ];
}

function nodes() {
  const used = (node) => node.replicas.reduce((sum, replica) => sum + replica.milli_cpu, 0);
  const share = (part, whole) => {
    const meter = element("meter");
    meter.max = Math.max(whole, 1);
    meter.value = part;
    return [meter, ` ${short(part / 1000)}/${short(whole / 1000)}`];
  };
  const gpus = (node) => node.gpus.flatMap((uuid) => {
    const milli = node.replicas.reduce((sum, replica) => sum + (replica.devices[uuid] ?? 0), 0);
    return [...share(milli, 1000), ` ${node.gpu_names[uuid] ?? ""} ${uuid.slice(0, 12)}`, element("br")];
  });
  const pending = Object.entries(view.nodes.pending);
  return [
    element("h2", "Nodes"),
    table("nodes", [
      ["node", (node) => node.node_id + (node.is_leader ? " (leader)" : "")],
      ["state", (node) => word(node.alive ? node.mark : "LOST")],
      ["agent", (node) => node.address],
      ["http", (node) => node.http_address || "–"],
      ["proxy", (node) => word(view.status.proxies[node.node_id] ?? "none")],
      ["replicas", (node) => String(node.replicas.length), true],
      ["CPU", (node) => share(used(node), node.milli_cpu)],
      ["memory", (node) => `${(node.memory_bytes / 2 ** 30).toFixed(1)} GiB`, true],
      ["GPUs", (node) => (node.gpus.length ? gpus(node) : "–")],
      ["labels", (node) => Object.entries(node.labels).map(([key, value]) => `${key}=${value}`).join(" ")],
    ], view.nodes.nodes),
    ...(pending.length ? [element("h2", "Waiting for room"), table("pending", [["deployment", ([key]) => key], ["why", ([, why]) => message(why)]], pending)] : []),
  ];
}

async function log(replica) {
  const [app, deployment, suffix] = replica.split("#");
  const answer = await fetch(`/api/logs?${new URLSearchParams({ app, replica: suffix })}`, { signal: AbortSignal.timeout(15000) });
  const text = element("pre", await answer.text());
  text.id = "log";
  const again = element("button", "read again");
  again.addEventListener("click", () => log(replica));
  main.replaceChildren(element("h2", `Log of ${replica}`), facts([["deployment", link(`${app} / ${deployment}`, "app", app, deployment)]]), again, text);
  text.scrollTop = text.scrollHeight;
}

// --- drawing -----------------------------------------------------------------------------------------------------------

/** Makes the children of `parent` like `wanted`, keeping what is like already: a click, a focus, a marked text and a
 *  scrolled place outlive the drawing of each second. */
function settle(parent, wanted) {
  const nodes = wanted.map((one) => (typeof one === "string" ? document.createTextNode(one) : one));
  nodes.forEach((node, number) => {
    const old = parent.childNodes[number];
    if (!old) parent.append(node);
    else if (old.nodeName !== node.nodeName) old.replaceWith(node);
    else if (old.nodeType === Node.TEXT_NODE) {
      if (old.data !== node.data) old.data = node.data;
    } else {
      for (const { name } of [...old.attributes]) if (!node.hasAttribute(name)) old.removeAttribute(name);
      for (const { name, value } of node.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
      settle(old, [...node.childNodes]);
    }
  });
  while (parent.childNodes.length > nodes.length) parent.lastChild.remove();
}

let drawnLog = "";

function draw() {
  if (!view) return;
  const [place, ...names] = location.hash.replace(/^#\//, "").split("/").map(decodeURIComponent);
  const alive = view.nodes.nodes.filter((node) => node.alive).length;
  document.getElementById("cluster").textContent =
    `cluster ${view.cluster} · ${alive} ${alive === 1 ? "node" : "nodes"} · leader ${view.status.leader || "none"}`;
  const notes = [...view.status.notes, ...view.trouble.map((what) => `not told: ${what}`)];
  settle(document.getElementById("notes"), notes.map((note) => element("p", note)));
  if (place === "log") {
    if (drawnLog === names[0]) return;  // a log is read when it is asked for, and keeps its place on the screen
    drawnLog = names[0];
    log(names[0]).catch((error) => main.replaceChildren(element("p", String(error))));
    return;
  }
  drawnLog = "";
  const drawn = place === "app" ? (names[1] ? deployment(...names) : application(names[0]))
    : place === "nodes" ? nodes()
    : place === "replicas" ? [element("h2", "Replicas"), replicaTable(replicas())]
    : applications();
  settle(main, drawn);
}

addEventListener("hashchange", draw);
setInterval(refresh, EVERY_MS);
setInterval(showAge, EVERY_MS);
refresh();
