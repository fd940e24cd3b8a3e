// The operator's page: how the shards are, what jobs do, who the players are. It knows no more than the API tells to a
// key with the scope `admin`, and starts nothing without having shown what it is about to ask for.

import { Refused, ask, backOffS, byId, el, fill, key, number, pause, place, say, span, utc } from "./common.js";

const SHARDS_EVERY_S = 5;
const JOBS_EVERY_S = 10;
const ACTIVE_JOBS_EVERY_S = 2;
const HUES = 8;

let run = new AbortController();
let board = "global";
let lastLook = null; // the shards before these, to tell submissions in a second
let presentCuts = [];

// -- in and out

async function enter() {
  try {
    await ask("/admin/jobs?limit=1");
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    leave(error.status === 403 ? "This key lacks the scope admin." : error.status === 401 ? "This is no valid API key." : error.message,
      { forget: error.status === 401 || error.status === 403 });
    return;
  }
  byId("gate").hidden = true;
  byId("panel").hidden = false;
  offerBoards();
  start();
}

function leave(why, { forget = true } = {}) {
  run.abort();
  if (forget) key.forget();
  byId("panel").hidden = true;
  byId("gate").hidden = false;
  byId("gate-trouble").hidden = !why;
  say(byId("gate-trouble"), why);
  jobRows.clear();
  for (const id of ["shards", "jobs", "players", "strip", "nodes"]) byId(id).replaceChildren();
  byId("key").focus();
}

async function offerBoards() {
  try {
    const { boards } = await ask("/boards");
    fill(byId("board"), boards.map((one) => [one.board, `${one.board} (${one.current})`]), board);
  } catch {
    fill(byId("board"), [[board, board]], board);
  }
}

function start() {
  run.abort();
  run = new AbortController();
  lastLook = null;
  repeat("shards", run.signal, async (signal) => {
    paintShards(await ask(`/admin/shards?board=${encodeURIComponent(board)}`, { signal }));
    return SHARDS_EVERY_S;
  });
  repeat("jobs", run.signal, async (signal) => {
    const { jobs } = await ask("/admin/jobs?limit=20", { signal });
    paintJobs(jobs);
    return jobs.some((job) => !job.finished_at) ? ACTIVE_JOBS_EVERY_S : JOBS_EVERY_S;
  });
}

/** Look again and again, with back-off while that fails, and say so beside what is still shown. */
async function repeat(what, signal, look) {
  const trouble = byId(`${what}-trouble`);
  let failures = 0;
  while (!signal.aborted) {
    let waitS;
    try {
      waitS = await look(signal);
      failures = 0;
      trouble.hidden = true;
    } catch (error) {
      if (signal.aborted) return;
      if (!(error instanceof Refused)) throw error;
      if (error.status === 401 || error.status === 403) {
        leave("The key is not valid any more.");
        return;
      }
      failures += 1;
      waitS = Math.max(error.retryAfterS, backOffS(failures));
      trouble.hidden = false;
      say(trouble, `${error.message} What is shown here is not fresh.`);
    }
    await pause(waitS * 1000, signal).catch(() => {});
  }
}

// -- shards

function paintShards(now) {
  const before = lastLook?.generation === now.generation ? lastLook : null;
  lastLook = now;
  const nodes = Object.keys(now.players_by_node).sort();
  const hue = (node) => `hue-${nodes.indexOf(node) % HUES}`;
  const most = Math.max(1, ...now.shards.map((shard) => shard.players));
  const seconds = before ? (Date.parse(now.as_of) - Date.parse(before.as_of)) / 1000 : 0;
  const applied = new Map(before?.shards.map((shard) => [shard.shard, shard.submissions]));

  say(byId("shards-told"), `${now.month ?? now.period} · map ${now.generation}.${now.version} · ${number(now.total_players)} players`
    + ` on ${number(now.shards.length)} shards · ${utc(now.as_of)}`);
  if (now.lost_partitions.length > 0) {
    say(byId("shards-told"), `${byId("shards-told").textContent} · lost partitions of the directory: ${now.lost_partitions.join(", ")}`);
  }
  byId("strip").replaceChildren(...now.shards.map((shard) => {
    const block = el("span", { class: `${hue(shard.node)}${shard.retiring ? " retiring" : ""}`, title: `shard ${shard.shard}, ${range(shard)}: ${number(shard.players)} players` },
      shard.players > now.total_players / 24 ? String(shard.shard) : "");
    block.style.flex = `${Math.max(shard.players, 0)} 1 4px`;
    return block;
  }));
  byId("nodes").replaceChildren(...nodes.map((node) =>
    el("li", {}, el("span", { class: hue(node) }), `${node}: ${number(now.players_by_node[node])} players`)));
  byId("shards").replaceChildren(...now.shards.map((shard) => {
    const bar = el("span", { class: hue(shard.node) });
    bar.style.width = `${(100 * shard.players) / most}%`;
    const rate = seconds > 0 && applied.has(shard.shard)
      ? number(Math.max(0, Math.round((shard.submissions - applied.get(shard.shard)) / seconds))) : "…";
    return el("tr", {},
      cell("Shard", `${shard.shard}${shard.retiring ? " (retiring)" : ""}`),
      cell("Points", range(shard)),
      cell("Players", shard.problem !== null ? el("span", { class: "notice" }, shard.problem) : el("div", { class: "of" }, el("span", { class: "track", "aria-hidden": "true" }, bar), number(shard.players))),
      cell("Strays", attention(shard.strays), "number"),
      cell("Leaving", number(shard.leaving), "number"),
      cell("Submissions/s", rate, "number"),
      cell("Outbox", waiting(shard), "number"),
      cell("Node", el("span", {}, el("span", { class: `dot ${hue(shard.node)}`, "aria-hidden": "true" }), shard.node)));
  }));
  presentCuts = [...new Set(now.shards.filter((shard) => !shard.retiring).map((shard) => shard.worst_points).filter((points) => points !== null))]
    .sort((one, other) => one - other);
}

/** The points that a shard's rows lie between, the better end first. */
function range({ best_points: best, worst_points: worst, part, parts }) {
  const split = parts > 1 ? `, part ${part + 1} of ${parts}` : "";
  if (best === null && worst === null) return `all${split}`;
  if (best === null) return `${number(worst)} or better${split}`;
  if (worst === null) return `${number(best)} or worse${split}`;
  return (best === worst ? number(best) : `${number(best)} to ${number(worst)}`) + split;
}

function attention(count) {
  return count ? el("span", { class: "attention" }, number(count)) : "0";
}

function waiting({ outbox, lag_seconds: lag }) {
  if (lag === null) return el("span", { class: "attention" }, "unknown");
  const told = outbox ? `${number(outbox)}, ${span(lag)}` : "0";
  return lag > 30 ? el("span", { class: "attention" }, told) : told;
}

/** A cell that says what it is where the table is folded, on a phone. */
function cell(label, content, kind) {
  return el("td", { "data-label": label, class: kind }, content);
}

function emptyRow(columns, text) {
  return el("tr", {}, el("td", { colspan: columns, class: "quiet wide" }, text));
}

// -- jobs

/** The row of each job, by what was told of it: one that has not changed stays, opened or not. */
let jobRows = new Map();

function paintJobs(jobs) {
  const rows = new Map(jobs.map((job) => {
    const told = JSON.stringify(job);
    return [told, jobRows.get(told) ?? jobRow(job)];
  }));
  jobRows = rows;
  place(byId("jobs"), rows.size ? [...rows.values()] : [emptyRow(6, "None was asked for")]);
}

function jobRow(job) {
  const { done, total } = job.progress;
  const asked = Object.entries(job.asked).filter(([, value]) => value !== null && value !== false)
    .map(([name, value]) => `${name} ${Array.isArray(value) ? value.join(", ") : value}`).join("; ");
  const bar = total ? el("progress", { max: total, value: Math.min(done, total), "aria-label": `${job.kind}: ${done} of ${total} players` })
    : job.state === "running" ? el("progress", { "aria-label": `${job.kind} is running` }) : null;
  const counted = total ? `${number(done)} of ${number(total)}` : done ? number(done) : "–";
  return el("tr", {},
    cell("Job", el("span", {}, job.kind, asked ? el("small", {}, ` ${asked}`) : null)),
    cell("Board and period", `${job.board} ${job.period}`),
    cell("State", el("span", { class: `tag ${job.state}` }, job.state)),
    cell("Players", el("div", {}, bar, el("small", {}, counted))),
    cell("Asked for", utc(job.asked_at)),
    cell("Outcome", outcome(job), "wide"));
}

function outcome(job) {
  if (job.problem) return el("span", {}, job.problem.detail);
  if (!job.result) return job.state === "queued" ? "waits for a worker" : "–";
  const facts = Object.entries(job.result).map(([name, value]) => `${name.replaceAll("_", " ")}: ${plain(value)}`).join(" · ");
  return el("details", {}, el("summary", {}, facts.slice(0, 60) + (facts.length > 60 ? "…" : "")), el("small", {}, facts));
}

function plain(value) {
  if (typeof value === "number") return number(value);
  return typeof value === "object" && value !== null ? JSON.stringify(value).slice(0, 400) : String(value);
}

/** What a form asks for; fields left empty are left out. Throws with words for people. */
function bodyOf(form) {
  const body = { board };
  for (const field of form.elements) {
    if (!field.name) continue;
    const value = field.value.trim();
    if (field.type === "checkbox") {
      if (field.checked) body[field.name] = true;
    } else if (!value) continue;
    else if (field.name === "cuts") body.cuts = cutsOf(value);
    else body[field.name] = field.type === "number" ? Number(value) : value;
  }
  return body;
}

function cutsOf(text) {
  const words = text.split(/[\s,;]+/).filter(Boolean);
  const wrong = words.find((word) => !/^-?\d{1,15}$/.test(word));
  if (wrong !== undefined) throw new Error(`“${wrong}” is no number of points. Give whole numbers with commas between them.`);
  return words.map(Number);
}

const CONFIRM = {
  verify: (body) => body.repair ? "Rows that differ from the audit log are set to what it says." : "Nothing is changed.",
  archive: (body) => `The ranking of ${body.period} becomes final. A period that is archived is not opened again.`,
  rebuild: (body) => body.force ? "The ranking in use is thrown away and made anew. The board takes no submissions meanwhile."
    : "Rows are made anew from the audit log.",
  rebalance: () => "Players move to the shards of their new ranges while the board is in use.",
};

async function startJob(form) {
  const kind = form.dataset.job;
  const told = byId("start-told");
  const tell = (text, bad) => {
    told.hidden = false;
    told.className = bad ? "notice" : "";
    told.textContent = text;
    told.scrollIntoView({ block: "nearest" });
  };
  let body;
  try {
    body = bodyOf(form);
  } catch (error) {
    tell(error.message, true);
    return;
  }
  if (!(await confirmed(kind, body))) return;
  try {
    const job = await ask(`/admin/${kind}`, { method: "POST", body });
    tell(`${kind} of ${job.board} ${job.period} is ${job.state}, as job ${job.id}.`, false);
    form.reset();
    start();
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    tell(`Not started. ${error.message}`, true);
    if (error.status === 0) told.textContent = error.message;
  }
}

function confirmed(kind, body) {
  const dialog = byId("confirm");
  say(byId("confirm-title"), `Start ${kind} of ${body.board}?`);
  say(byId("confirm-text"), CONFIRM[kind](body));
  say(byId("confirm-body"), `POST /api/v1/admin/${kind}\n${JSON.stringify(body)}`);
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

// -- players

let nextPlayers = null;

async function search(address, { more = false } = {}) {
  const wanted = byId("wanted").value.trim();
  const trouble = byId("players-trouble");
  trouble.hidden = true;
  try {
    const [page, byName] = await Promise.all([ask(address), more || !wanted ? null : player(wanted)]);
    const users = byName && !page.users.some((user) => user.user_id === byName.user_id) ? [byName, ...page.users] : page.users;
    const ranks = await ranksOf(users);
    const rows = users.map((user) => playerRow(user, ranks));
    if (more) byId("players").append(...rows);
    else byId("players").replaceChildren(...(rows.length ? rows : [emptyRow(6, "Nobody is called that")]));
    nextPlayers = page.next?.replace(/^\/api\/v1/, "") ?? null;
    byId("more").hidden = nextPlayers === null;
    byId("players-table").hidden = false;
    say(byId("players-told"), `Ranks on ${board} now`);
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    trouble.hidden = false;
    say(trouble, error.message);
  }
}

/** The player with this id, if there is one. */
async function player(id) {
  try {
    return await ask(`/users/${encodeURIComponent(id)}`);
  } catch (error) {
    if (error.status === 404 || error.status === 400) return null;
    throw error;
  }
}

/** Standings by player; null if they cannot be had: the players can be shown without. */
async function ranksOf(users) {
  if (!users.length) return new Map();
  try {
    const body = { user_ids: users.map((user) => user.user_id) };
    const { entries } = await ask(`/scores/lookup?board=${encodeURIComponent(board)}`, { method: "POST", body });
    return new Map(entries.map((entry) => [entry.user_id, entry]));
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    return null;
  }
}

function playerRow(user, ranks) {
  const standing = ranks?.get(user.user_id);
  const none = ranks === null ? "unknown" : "–";
  return el("tr", {},
    cell("Username", el("span", {}, user.username, user.hidden ? el("span", { class: "tag" }, "hidden") : null)),
    cell("Shown as", user.display_name),
    cell("Id", el("a", { href: `/?board=${encodeURIComponent(board)}&player=${encodeURIComponent(user.user_id)}` }, user.user_id)),
    cell("Since", user.created_at.slice(0, 10)),
    cell("Rank", standing ? number(standing.rank) : none, "number"),
    cell("Points", standing ? number(standing.score) : none, "number"));
}

// -- wiring

byId("gate-form").addEventListener("submit", (event) => {
  event.preventDefault();
  key.set(byId("key").value.trim());
  byId("key").value = "";
  enter();
});
byId("leave").addEventListener("click", () => leave(""));
byId("board").addEventListener("change", (event) => {
  board = event.target.value;
  byId("players-table").hidden = true;
  byId("more").hidden = true;
  start();
});
byId("present-cuts").addEventListener("click", () => {
  document.querySelector("[data-job=rebalance]").elements.cuts.value = presentCuts.join(", ");
});
for (const form of document.querySelectorAll("form[data-job]")) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    startJob(form);
  });
}
byId("search").addEventListener("submit", (event) => {
  event.preventDefault();
  search(`/users?${new URLSearchParams({ limit: 25, prefix: byId("wanted").value.trim() })}`);
});
byId("more").addEventListener("click", () => search(nextPlayers, { more: true }));
document.addEventListener("visibilitychange", () => {
  if (document.hidden) run.abort();
  else if (!byId("panel").hidden) start();
});

if (key.get()) enter();
else leave("");
