// What the pages share: asking the API, saying in words what it refuses, and making elements.
//
// Data goes into the page as text only. The policy that these files are served with (require-trusted-types-for) makes
// the browser refuse everything else.

export const BASE = "/api/v1";

const STORED = "rangeboard.key";
const TIMEOUT_MS = 10_000;

/** The API key of this tab: kept until the tab is closed, never written anywhere else. */
export const key = {
  get: () => sessionStorage.getItem(STORED),
  set: (secret) => sessionStorage.setItem(STORED, secret),
  forget: () => sessionStorage.removeItem(STORED),
};

/** A refusal of the API, or none: `status` is 0 where no answer came. `message` is for people. */
export class Refused extends Error {
  constructor(status, message, { retryAfterS = 0, problem = null } = {}) {
    super(message);
    this.status = status;
    this.retryAfterS = retryAfterS;
    this.problem = problem;
  }
}

/** How many milliseconds the server's clock is ahead of this one, from its last answer (to a second). */
let clockAheadMs = 0;

/** The age in seconds of something that the server says happened at `moment` (RFC 3339), by the server's clock. */
export function ageS(moment) {
  return Math.max(0, (Date.now() + clockAheadMs - Date.parse(moment)) / 1000);
}

function noteClock(response) {
  const date = Date.parse(response.headers.get("Date") ?? "");
  if (Number.isNaN(date)) return;
  const ahead = date + 500 - Date.now();
  clockAheadMs = Math.abs(ahead) < 2_000 ? 0 : ahead;
}

/** The response to a request, with the tab's key if it has one. Throws Refused unless it is a success. */
export async function request(path, { method = "GET", body, signal, headers = {} } = {}) {
  const sent = { ...headers };
  if (key.get()) sent.Authorization = `Bearer ${key.get()}`;
  if (body !== undefined) sent["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, {
      method,
      headers: sent,
      signal,
      cache: "no-store",
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (error) {
    if (signal?.aborted && signal.reason?.name !== "TimeoutError") throw error;
    const why = signal?.aborted ? "The server does not answer." : "The server cannot be reached.";
    throw new Refused(0, method === "GET" ? why : `${why} It may have been done all the same: look before repeating it.`);
  }
  noteClock(response);
  if (!response.ok) throw await refusal(response);
  return response;
}

/** The decoded answer to a request below BASE; Refused after ten seconds at the latest. */
export async function ask(path, { method, body, signal } = {}) {
  const patience = AbortSignal.timeout(TIMEOUT_MS);
  const response = await request(BASE + path, {
    method,
    body,
    signal: signal ? AbortSignal.any([signal, patience]) : patience,
  });
  return response.json();
}

async function refusal(response) {
  const retryAfterS = Number(response.headers.get("Retry-After")) || 0;
  let problem = null;
  try {
    problem = await response.json();
  } catch {
    // an answer of something between us and the API
  }
  return new Refused(response.status, inWords(problem, response.status), { retryAfterS, problem });
}

/** A problem document as a sentence or two. */
export function inWords(problem, status) {
  if (!problem?.title) return `The server answered with status ${status}.`;
  const said = [`${problem.title}.`];
  const fields = (problem.errors ?? []).map(({ field, detail }) => `${field}: ${detail}`);
  if (fields.length) said.push(`${fields.join("; ")}.`);
  else if (problem.detail && problem.detail !== problem.title) said.push(`${capital(problem.detail)}.`);
  if (problem.outcome === "unknown") said.push("It may have been done all the same.");
  return said.join(" ").replaceAll("..", ".");
}

function capital(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

/** An element; children that are no elements become text. */
export function el(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [attribute, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (attribute.startsWith("on")) element.addEventListener(attribute.slice(2), value);
    else element.setAttribute(attribute, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export function byId(id) {
  return document.getElementById(id);
}

/** Put these elements into a parent in this order, moving none that stands right: whoever has the focus keeps it. */
export function place(parent, elements) {
  const wanted = new Set(elements);
  for (const child of [...parent.children]) if (!wanted.has(child)) child.remove();
  elements.forEach((element, index) => {
    if (parent.children[index] !== element) parent.insertBefore(element, parent.children[index] ?? null);
  });
}

/** Set an element's text, touching it only where it changes: screen readers speak what is touched. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

const numbers = new Intl.NumberFormat();

export function number(value) {
  return numbers.format(value);
}

/** A span of time as people say it: `4 s`, `3 min`, `2 h`, `5 days`. */
export function span(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5_400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172_800) return `${Math.round(seconds / 3_600)} h`;
  return `${Math.round(seconds / 86_400)} days`;
}

/** A moment (RFC 3339) in UTC: `2026-11-23 18:53:41 UTC`. */
export function utc(moment) {
  return `${new Date(moment).toISOString().slice(0, 19).replace("T", " ")} UTC`;
}

/** Wait, or throw when the signal says so. */
export function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    }, { once: true });
  });
}

/** Seconds to wait after so many failures in a row: doubling up to half a minute, spread so that clients do not meet. */
export function backOffS(failures) {
  return Math.min(30, 2 ** Math.min(failures, 5)) * (0.75 + Math.random() / 2);
}

/** Fill a select with [value, text] and keep what was chosen, if it is still there. */
export function fill(select, options, chosen = select.value) {
  const known = options.some(([value]) => value === chosen);
  select.replaceChildren(...options.map(([value, text]) => el("option", { value }, text)));
  select.value = known ? chosen : (options[0]?.[0] ?? "");
}
