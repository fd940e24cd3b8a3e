// The contract to read, made of /openapi.json, which is made of the endpoints that are served.

import { Refused, byId, el, request, say } from "./common.js";

const DEEPEST = 4;
const OPEN = "scores:read"; // the scope that may be needed by nobody
const GROUPS = [
  ["Scores and ranks", /^\/api\/v1\/(scores|stream|stats)/],
  ["Players", /^\/api\/v1\/users/],
  ["Boards", /^\/api\/v1\/boards/],
  ["Operation", /^\/api\/v1\/admin/],
  ["Health", /./],
];
/** Values for examples, by the name of what they stand for. */
const EXAMPLES = {
  user_id: "ada", username: "ada", display_name: "Ada", user_ids: ["ada", "grace"], match_id: "match-1", score: 1,
  board: "global", period: "2026-10", month: "2026-10", country: "GB", avatar_url: "https://example.com/ada.png",
  cuts: [100, 500], job_id: "0123456789abcdef",
};

const IDS = ["user_id", "match_id"];

let components = {};

function resolved(schema) {
  if (schema?.$ref) return components[schema.$ref.split("/").pop()] ?? {};
  return schema ?? {};
}

function described(schema) {
  return schema.description ?? resolved(schema).description ?? "";
}

/** A schema's type in words. */
function typeOf(schema) {
  const whole = resolved(schema);
  if (whole.const !== undefined) return JSON.stringify(whole.const);
  if (whole.enum) return whole.enum.map((value) => JSON.stringify(value)).join(" or ");
  const choices = whole.anyOf ?? whole.oneOf;
  if (choices) return [...new Set(choices.map(typeOf))].join(" or ");
  if (whole.type === "array") return `list of ${typeOf(whole.items)}`;
  if (Array.isArray(whole.type)) return whole.type.join(" or ");
  return whole.format ? `${whole.type} (${whole.format})` : (whole.type ?? "any");
}

/** A text in which `words` between backticks are code. */
function marked(text) {
  return text.split("`").map((part, index) => (index % 2 ? el("code", {}, part) : part));
}

function bounds(schema) {
  const whole = resolved(schema);
  const said = [];
  const { minimum: low, maximum: high } = whole;
  const counts = [low, high].every((bound) => bound === undefined || Number.isSafeInteger(bound));
  if (!counts) said.push("64 bits");
  else if (low !== undefined || high !== undefined) said.push(`${low ?? "…"} to ${high ?? "…"}`);
  if (whole.maxLength !== undefined) said.push(`at most ${whole.maxLength} characters`);
  if (whole.maxItems !== undefined) said.push(`at most ${whole.maxItems} items`);
  if (whole.default !== undefined && whole.default !== null) said.push(`default ${JSON.stringify(whole.default)}`);
  return said.join(", ");
}

/** The object that a schema is, or is a list of; null if neither. */
function objectIn(schema) {
  const whole = resolved(schema);
  if (whole.properties) return whole;
  if (whole.type === "array") return objectIn(whole.items);
  for (const choice of whole.anyOf ?? whole.oneOf ?? []) {
    const found = objectIn(choice);
    if (found) return found;
  }
  return null;
}

const MUST_BE_GIVEN = (required) => (required ? "required" : "");
const MAY_BE_MISSING = (required) => (required ? "" : "not always");

/** A row for each member; `note` says what being required, or not, means to the reader. */
function fieldRows(schema, note, depth = 0, above = "") {
  const object = objectIn(schema);
  if (!object || depth > DEEPEST) return [];
  const required = object.required ?? [];
  return Object.entries(object.properties).flatMap(([name, member]) => [
    fieldRow(above + name, member, note(required.includes(name))),
    ...fieldRows(member, note, depth + 1, `${above}${name}${resolved(member).type === "array" ? "[]." : "."}`),
  ]);
}

function fieldRow(name, schema, note) {
  return el("tr", {},
    el("td", {}, el("code", {}, name), note ? el("small", {}, ` ${note}`) : null),
    el("td", {}, typeOf(schema)),
    el("td", {}, ...marked([described(schema), bounds(schema)].filter(Boolean).join("; "))));
}

function table(caption, rows) {
  return el("table", { class: "fields" },
    el("caption", {}, caption),
    el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Name"), el("th", { scope: "col" }, "Type"), el("th", { scope: "col" }, "Meaning"))),
    el("tbody", {}, ...rows));
}

/** A value of this form: what is required, and the ids without which nothing can be sent again; something at least. */
function example(name, schema, depth = 0) {
  if (name in EXAMPLES) return EXAMPLES[name];
  const whole = resolved(schema);
  if (whole.default !== undefined) return whole.default;
  if (whole.examples) return whole.examples[0];
  if (whole.enum) return whole.enum[0];
  if (whole.type === "array") return depth > DEEPEST ? [] : [example("", whole.items, depth + 1)];
  if (whole.properties) {
    const named = Object.keys(whole.properties).filter((member) => IDS.includes(member) || whole.required?.includes(member));
    if (!named.length) named.push(Object.keys(whole.properties)[0]);
    const members = named.map((member) => [member, example(member, whole.properties[member], depth + 1)]);
    return Object.fromEntries(members);
  }
  const choice = (whole.anyOf ?? whole.oneOf ?? []).find((one) => resolved(one).type !== "null");
  if (choice && depth <= DEEPEST) return example("", choice, depth + 1);
  if (whole.type !== "integer" && whole.type !== "number") return "…";
  return whole.minimum > 1 ? whole.minimum : 1;
}

function curl(method, path, operation) {
  const filled = path.replace(/\{(\w+)\}/g, (_, name) => encodeURIComponent(EXAMPLES[name] ?? name));
  const query = operation.parameters.filter((one) => one.in === "query" && one.required)
    .map((one) => `${one.name}=${encodeURIComponent(example(one.name, one.schema))}`).join("&");
  const address = location.origin + filled + (query ? `?${query}` : "");
  const streams = JSON.stringify(operation.responses["200"]?.content ?? {}).includes("event-stream");
  const parts = [`curl ${streams ? "-N" : "-s"}${method === "get" ? "" : ` -X ${method.toUpperCase()}`} '${address}'`];
  if (operation.security && scopeOf(operation) !== OPEN) parts.push(`-H "Authorization: Bearer $KEY"`);
  const body = bodyOf(operation);
  if (body) {
    parts.push("-H 'Content-Type: application/json'");
    parts.push(`-d '${JSON.stringify(example("", body)).replaceAll("'", "'\\''")}'`);
  }
  return parts.join(" \\\n  ");
}

function scopeOf(operation) {
  return operation.security?.[0]?.key?.[0];
}

function bodyOf(operation) {
  return operation.requestBody?.content["application/json"]?.schema;
}

function contents(method, path, operation) {
  const inside = [];
  const scope = scopeOf(operation);
  if (scope) inside.push(el("p", {}, "Needs a key with the scope ", el("code", {}, scope), scope === OPEN ? " where reads are not open to everybody." : "."));
  else inside.push(el("p", {}, "Needs no key."));
  inside.push(el("pre", {}, curl(method, path, operation)));
  if (operation.parameters.length) {
    inside.push(table("Parameters", operation.parameters.map((one) =>
      fieldRow(one.in === "path" ? `{${one.name}}` : one.name, one.schema, MUST_BE_GIVEN(one.required)))));
  }
  const body = bodyOf(operation);
  if (body) inside.push(table(`Body: ${typeOf(body)}`, fieldRows(body, MUST_BE_GIVEN)));
  for (const [status, { description, content }] of Object.entries(operation.responses)) {
    if (!status.startsWith("2")) continue;
    const [mediaType, { schema }] = Object.entries(content)[0];
    inside.push(el("h3", {}, `Answer ${status} ${description}, `, el("code", {}, mediaType)));
    if (described(schema)) inside.push(el("p", {}, ...marked(described(schema))));
    inside.push(table("Members", fieldRows(schema, MAY_BE_MISSING)));
  }
  const refusals = Object.entries(operation.responses).filter(([status]) => !status.startsWith("2"));
  inside.push(el("p", { class: "quiet" }, "Else, as a problem document: ",
    refusals.map(([status, { description }]) => `${status} ${description}`).join(", "), "."));
  return inside;
}

/** One call; what it says is made when it is opened. */
function card(method, path, operation) {
  const inside = el("div");
  const details = el("details", { class: "card operation", id: operation.operationId, "data-words": `${method} ${path} ${operation.summary}`.toLowerCase() },
    el("summary", {}, el("span", { class: `method ${method}` }, method.toUpperCase()), el("code", {}, path), el("span", {}, operation.summary)),
    inside);
  details.addEventListener("toggle", () => {
    if (details.open && !inside.hasChildNodes()) inside.append(...contents(method, path, operation));
  });
  return details;
}

function paint(document_) {
  components = document_.components.schemas;
  byId("about").append(...marked(document_.info.description));
  const operations = Object.entries(document_.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => ({ method, path, operation })));
  const rest = new Set(operations);
  for (const [title, pattern] of GROUPS) {
    const cards = [...rest].filter((one) => pattern.test(one.path)).map((one) => {
      rest.delete(one);
      return card(one.method, one.path, one.operation);
    });
    if (cards.length) byId("operations").append(el("section", {}, el("h2", {}, title), ...cards));
  }
  goTo(location.hash);
}

function goTo(hash) {
  const named = hash ? byId(decodeURIComponent(hash.slice(1))) : null;
  if (!named) return;
  named.open = true;
  named.scrollIntoView();
}

function filter(words) {
  for (const section of byId("operations").children) {
    let any = false;
    for (const one of section.querySelectorAll(".operation")) {
      one.hidden = !words.every((word) => one.dataset.words.includes(word));
      any ||= !one.hidden;
    }
    section.hidden = !any;
  }
}

byId("filter").addEventListener("input", (event) => filter(event.target.value.toLowerCase().split(/\s+/).filter(Boolean)));
addEventListener("hashchange", () => goTo(location.hash));

try {
  paint(await (await request("/openapi.json")).json());
} catch (error) {
  if (!(error instanceof Refused)) throw error;
  byId("trouble").hidden = false;
  say(byId("trouble"), `${error.message} Load the page again.`);
}
