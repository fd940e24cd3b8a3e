// The live leaderboard: the top as the stream tells it, and the plain address in between.
//
// The stream is read with fetch rather than EventSource, because the page has to say how old its view is: it needs the
// status of a refusal, and the comments that say "nothing new". At such a comment the plain address is asked once, since
// only an answer says as of when it holds. When the stream ends or is refused, the plain address is asked with back-off,
// and the stream is tried again each time.

import { BASE, Refused, ageS, ask, backOffS, byId, el, fill, key, number, pause, place, request, say, span, utc } from "./common.js";

const SILENCE_MS = 40_000; // the stream says something every fifteen seconds
const MOST_EVENT = 1_000_000; // characters
const POLL_S = 5;
const OLD_S = 45;
const HUES = 8;

const chosen = new URLSearchParams(location.search);
const state = {
  board: chosen.get("board") ?? "global",
  period: chosen.get("period") ?? chosen.get("month") ?? "",
  limit: Number(chosen.get("limit")) || 10,
  /** connecting, live, polling, lost, still (nothing will change), absent (no such ranking), closed (a key is needed) */
  connection: "connecting",
  view: null,
  trouble: "",
};
let run = new AbortController();

// -- following

function start() {
  run.abort();
  run = new AbortController();
  state.connection = "connecting";
  state.trouble = "";
  const { signal } = run;
  (state.period ? readOnce(signal) : follow(signal)).catch((error) => {
    if (!signal.aborted) throw error;
  });
  paintState();
}

async function follow(signal) {
  let failures = 0;
  for (;;) {
    let waitS = 0;
    try {
      await listen(signal, () => { failures = 0; });
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      waitS = error.retryAfterS;
      if (isUseless(error)) return;
    }
    signal.throwIfAborted();
    if (state.connection === "live") become("lost");
    try {
      show(await look(signal));
      become("polling");
      failures = 0;
      waitS = Math.max(waitS, POLL_S * (0.75 + Math.random() / 2));
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      if (isUseless(error)) return;
      failures += 1;
      become("lost", error.message);
      waitS = Math.max(waitS, error.retryAfterS, backOffS(failures));
    }
    await pause(waitS * 1000, signal);
  }
}

/** A period that is over does not change: read it, again only where that fails. */
async function readOnce(signal) {
  for (let failures = 1; ; failures += 1) {
    try {
      show(await look(signal));
      become("still");
      return;
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      if (isUseless(error)) return;
      become("lost", error.message);
    }
    await pause(backOffS(failures) * 1000, signal);
  }
}

/** The top, without the shards that do not answer if it is not to be had with them. */
async function look(signal) {
  const path = `/scores?${named({ limit: state.limit })}`;
  try {
    return await ask(path, { signal });
  } catch (error) {
    if (error.status !== 503) throw error;
    return ask(`${path}&partial=ok`, { signal });
  }
}

/** Show what the stream tells until it ends. */
async function listen(signal, onEvent) {
  const patience = new AbortController();
  const response = await request(`${BASE}/stream?${named({ limit: state.limit })}`, {
    signal: AbortSignal.any([signal, patience.signal]),
    headers: { Accept: "text/event-stream" },
  });
  for await (const event of events(response.body, patience)) {
    signal.throwIfAborted();
    onEvent();
    if (event.name === "top") show(JSON.parse(event.data));
    else show(await look(signal));
    become("live");
  }
}

/** The events of a stream, and its comments, which have no name. Ends with the stream or when it falls silent. */
async function* events(body, patience) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  try {
    for (;;) {
      const silence = setTimeout(() => patience.abort(), SILENCE_MS);
      let part;
      try {
        part = await reader.read();
      } catch {
        return;
      } finally {
        clearTimeout(silence);
      }
      if (part.done) return;
      text += part.value;
      if (text.length > MOST_EVENT) return;
      const whole = text.split("\n\n");
      text = whole.pop();
      for (const lines of whole) yield parsed(lines);
    }
  } finally {
    patience.abort();
  }
}

function parsed(lines) {
  const event = { name: "", data: "" };
  for (const line of lines.split("\n")) {
    if (line.startsWith("event: ")) event.name = line.slice(7);
    else if (line.startsWith("data: ")) event.data += line.slice(6);
  }
  return event;
}

/** Whether asking again would be refused again; the page says why then, and stays as it is. */
function isUseless(error) {
  if (error.status === 401 || error.status === 403) {
    key.forget();
    become("closed", `This leaderboard is not open to everybody. ${error.message}`);
    return true;
  }
  if (error.status === 400 || error.status === 404) {
    showNothing();
    become("absent", error.message);
    return true;
  }
  return false;
}

function become(connection, trouble = "") {
  state.connection = connection;
  state.trouble = trouble;
  paintState();
}

/** The query that names the board and period. */
function named(more = {}) {
  const query = new URLSearchParams(more);
  if (state.board !== "global") query.set("board", state.board);
  if (state.period) query.set("period", state.period);
  return query.toString();
}

// -- showing

const shownRows = new Map();

function show(view) {
  const before = state.view;
  const same = before && periodOf(before) === periodOf(view) && before.board === view.board;
  state.view = view;
  requestAnimationFrame(() => {
    if (state.view === view) paintRows(view, Boolean(same));
  });
  paintState();
}

function showNothing() {
  state.view = null;
  shownRows.clear();
  byId("rows").replaceChildren();
  say(byId("caption"), "Nothing to show");
}

function periodOf(view) {
  return view.month ?? view.period;
}

function paintRows(view, tellChanges) {
  const rows = view.entries.map((entry) => {
    const known = shownRows.get(entry.user_id) ?? rankedRow(entry);
    known.paint(entry, tellChanges);
    return [entry.user_id, known];
  });
  shownRows.clear();
  for (const [id, row] of rows) shownRows.set(id, row);
  place(byId("rows"), rows.map(([, row]) => row.element));
  const players = `${number(view.total_players)} ${view.total_players === 1 ? "player" : "players"}`;
  say(byId("caption"), view.total_players ? players : "Nobody has played yet");
  say(byId("title"), view.board === "global" ? periodName(view) : `${view.board}, ${periodName(view)}`);
  document.title = `${byId("title").textContent} – Leaderboard`;
}

function periodName(view) {
  const name = periodOf(view);
  if (/^\d{4}-\d{2}$/.test(name)) {
    return new Date(`${name}-15T12:00:00Z`).toLocaleDateString(undefined, { month: "long", year: "numeric", timeZone: "UTC" });
  }
  return name === "all" ? "All time" : name;
}

/** A row that can be painted again: its picture is loaded once. */
function rankedRow(entry) {
  const rank = el("td", { class: "rank" });
  const points = el("td", { class: "number points" });
  const name = el("button", { type: "button", class: "name", onclick: () => find(entry.user_id) });
  const picture = el("span", { class: "picture" });
  const element = el("tr", {}, rank, el("th", { scope: "row" }, el("span", { class: "player" }, picture, name)), points);
  let score = null;
  let pictured = null;
  return {
    element,
    paint(now, tellChange) {
      say(rank, number(now.rank));
      rank.className = now.rank <= 3 ? `rank place-${now.rank}` : "rank";
      say(name, now.display_name ?? now.username ?? now.user_id);
      name.title = now.user_id;
      if (now.is_current_user) element.setAttribute("aria-current", "true");
      if (pictured !== `${now.avatar_url} ${name.textContent}`) {
        picture.replaceWith(pictureOf(now, name.textContent, picture));
        pictured = `${now.avatar_url} ${name.textContent}`;
      }
      if (score !== null && score !== now.score && tellChange) {
        points.classList.remove("changed");
        void points.offsetWidth; // begins the animation again
        points.classList.add("changed");
      }
      score = now.score;
      say(points, number(now.score));
    },
  };
}

/** The avatar, or initials until it is there. */
function pictureOf(entry, name, picture) {
  const initials = name.split(/[\s._:-]+/).filter(Boolean).slice(0, 2).map((word) => [...word][0].toUpperCase()).join("");
  picture.className = `picture hue-${hueOf(entry.user_id)}`;
  picture.setAttribute("aria-hidden", "true");
  picture.replaceChildren(initials || "?");
  if (entry.avatar_url?.startsWith("https://")) {
    const image = el("img", { alt: "", width: 36, height: 36, loading: "lazy", decoding: "async", referrerpolicy: "no-referrer" });
    image.addEventListener("error", () => image.remove());
    image.src = entry.avatar_url;
    picture.append(image);
  }
  return picture;
}

function hueOf(id) {
  let sum = 0;
  for (const character of id) sum = (sum * 31 + character.codePointAt(0)) % 65_521;
  return sum % HUES;
}

// -- saying how good the view is

const CONNECTIONS = {
  connecting: ["Connecting", "wait"],
  live: ["Live", "good"],
  polling: [`Asked every ${POLL_S} s`, "good"],
  lost: ["Connection lost, trying again", "bad"],
  still: ["Over", "still"],
  absent: ["Not to be had", "bad"],
  closed: ["Not open to everybody", "bad"],
};

function paintState() {
  const { view, connection } = state;
  let [told, light] = CONNECTIONS[connection];
  const notes = [];
  if (document.hidden) [told, light] = ["Paused", "wait"];
  if (view?.final) [told, light] = ["Final", "still"];
  else if (connection === "still") told = "Over, not final yet";
  if (view?.rank_is === "partial") {
    if (light === "good") light = "warn";
    notes.push(`partial: ${number(view.missing_shards ?? 0)} shards do not answer, their players are not counted`);
  } else if (view?.rank_is === "recent" && !view.final) {
    notes.push("recent: players who change shards just now may be missing");
  }
  if (view?.names === "unavailable") notes.push("names cannot be read just now");
  const age = view ? ageS(view.as_of) : 0;
  if ((light === "good" || light === "warn") && age > OLD_S) [told, light] = ["Old view", "warn"];
  byId("light").className = `light ${light}`;
  say(byId("state"), [told, ...notes].join(" · "));
  let aged = "";
  if (view?.final) aged = `closed ${utc(view.as_of)}`;
  else if (view) aged = age < 2 ? "up to date" : `as of ${span(age)} ago`;
  say(byId("age"), aged);
  byId("trouble").hidden = !state.trouble;
  say(byId("trouble"), state.trouble);
  byId("key-form").hidden = connection !== "closed";
}

// -- finding a player

async function find(id) {
  byId("player").value = id;
  const found = byId("found");
  found.replaceChildren(el("p", { class: "quiet" }, "Looking…"));
  const path = `/scores/${encodeURIComponent(id)}`;
  try {
    const [standing, around, history] = await Promise.all([
      orPartly(path, ""),
      orPartly(`${path}/surrounding`, "offset=4"),
      ask(`${path}/history?limit=6&board=${encodeURIComponent(state.board)}`).catch(() => ({ entries: [] })),
    ]);
    found.replaceChildren(...describe(standing, around, history));
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    const absent = error.problem?.type?.endsWith(":not-on-board");
    found.replaceChildren(el("p", { class: "notice" }, absent ? `${id} has no points on this board in this period.` : error.message));
  }
  found.scrollIntoView({ block: "nearest" });
}

async function orPartly(path, query) {
  const more = named();
  const address = `${path}?${[query, more].filter(Boolean).join("&")}`;
  try {
    return await ask(address);
  } catch (error) {
    if (error.status !== 503) throw error;
    return ask(`${address}&partial=ok`);
  }
}

const HOW = {
  exact: "exact",
  recent: "but for players who change shards just now",
  partial: "without the shards that do not answer",
};

function describe(standing, around, history) {
  const how = standing.final ? "final" : HOW[standing.rank_is];
  const rows = around.entries.map((entry) => {
    const row = rankedRow(entry);
    row.paint(entry, false);
    return row.element;
  });
  const past = history.entries.map((entry) =>
    el("li", {}, `${periodOf(entry)}: rank ${number(entry.rank)} of ${number(entry.total_players)}, ${number(entry.score)} points`));
  return [
    el("dl", { class: "facts" },
      fact("Player", standing.display_name ?? standing.user_id),
      fact("Rank", `${number(standing.rank)} of ${number(standing.total_players)}`, how),
      fact("Points", number(standing.score)),
      fact("Percentile", standing.percentile.toLocaleString(undefined, { maximumFractionDigits: 2 }))),
    el("table", { class: "ranking" },
      el("caption", {}, "Around ", el("bdi", {}, standing.display_name ?? standing.user_id), `, ${utc(standing.as_of)}`),
      el("thead", {}, el("tr", {},
        el("th", { scope: "col" }, "Rank"), el("th", { scope: "col" }, "Player"),
        el("th", { scope: "col", class: "number" }, "Points"))),
      el("tbody", {}, ...rows)),
    ...(past.length ? [el("h3", {}, "Past periods"), el("ul", { class: "past" }, ...past)] : []),
  ];
}

function fact(name, value, note) {
  return el("div", {}, el("dt", {}, name), el("dd", {}, value, note ? el("small", {}, ` ${note}`) : null));
}

// -- choosing

async function offerBoards() {
  const { boards } = await ask("/boards");
  fill(byId("board"), boards.map(({ board }) => [board, board]), state.board);
  byId("board-choice").hidden = boards.length < 2;
}

async function offerPeriods() {
  const { periods } = await ask(`/boards/${encodeURIComponent(state.board)}/periods`);
  const names = periods.map(periodOf);
  if (state.period && !names.includes(state.period)) names.unshift(state.period);
  fill(byId("period"), [["", "Now"], ...names.map((name) => [name, name])], state.period);
}

function choose(changes) {
  Object.assign(state, changes);
  const query = named(state.limit === 10 ? {} : { limit: state.limit });
  history.replaceState(null, "", query ? `?${query}` : "/");
  state.view = null;
  byId("found").replaceChildren();
  start();
}

/** Lists to choose from are a comfort: without them the page still shows what it was asked for. */
function offer() {
  offerBoards().catch(() => {});
  offerPeriods().catch(() => {});
}

byId("choices").addEventListener("submit", (event) => event.preventDefault());
byId("board").addEventListener("change", (event) => {
  choose({ board: event.target.value, period: "" });
  offerPeriods().catch(() => {});
});
byId("period").addEventListener("change", (event) => choose({ period: event.target.value }));
byId("limit").addEventListener("change", (event) => choose({ limit: Number(event.target.value) }));
byId("find").addEventListener("submit", (event) => {
  event.preventDefault();
  find(byId("player").value.trim());
});
byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  key.set(byId("key").value.trim());
  byId("key").value = "";
  start();
  offer();
});
document.addEventListener("visibilitychange", () => {
  if (document.hidden) run.abort(); // nobody looks: leave the listener's place to others
  else start();
  paintState();
});

if (![10, 25, 50, 100].includes(state.limit)) state.limit = 10;
byId("limit").value = String(state.limit);
setInterval(paintState, 1_000);
offer();
start();
if (chosen.get("player")) find(chosen.get("player"));
