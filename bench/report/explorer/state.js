// The view: what is on the axes, which rows are on show, how the table is sorted, which row is open. All of it is in the
// address, after the #, so that a view can be sent.

const FLAGS = { xlog: true, ylog: false, bars: true, front: true };
const PLAIN = ["x", "y", "colour", "facet", "q", "sort", "row"];
let state = {};

function fresh() {
  const { x = "", y = "", ...where } = DATA.view;
  const filters = {};
  for (const [name, value] of Object.entries(where)) if (FIELDS.has(name) && value !== "") filters[name] = [shown(value)];
  return {
    x, y, colour: FIELDS.has("backbone") ? "backbone" : "", facet: "", q: "", sort: y ? (better(y) === "lower" ? y : `-${y}`) : "",
    row: "", page: 0, filters, limits: {}, columns: null, ...FLAGS,
  };
}

function better(name) {
  return COLUMNS.get(name)?.better ?? null;
}

function toFragment(view) {
  const words = new URLSearchParams();
  for (const name of PLAIN) if (view[name]) words.set(name, view[name]);
  for (const [name, usual] of Object.entries(FLAGS)) if (view[name] !== usual) words.set(name, view[name] ? "1" : "0");
  if (view.page) words.set("page", String(view.page + 1));
  for (const [name, values] of Object.entries(view.filters)) for (const value of values) words.append(`f.${name}`, value);
  for (const [name, value] of Object.entries(view.limits)) words.set(`limit.${name}`, String(value));
  for (const name of view.columns ?? []) words.append("column", name);
  return words.toString();
}

// What the address says; names that this page does not know are left out.
function fromFragment(text) {
  const words = new URLSearchParams(text);
  if ([...words.keys()].length === 0) return fresh();
  const view = { ...fresh(), filters: {}, limits: {}, facet: "", colour: "", sort: "" };
  const known = (name) => name === "" || COLUMNS.has(name) || FIELDS.has(name);
  for (const name of PLAIN) if (words.has(name)) view[name] = words.get(name);
  for (const name of ["x", "y"]) if (!COLUMNS.has(view[name])) view[name] = DATA.view[name] ?? "";
  for (const name of ["colour", "facet"]) if (!known(view[name])) view[name] = "";
  if (!known(view.sort.replace(/^-/, ""))) view.sort = "";
  for (const name of Object.keys(FLAGS)) if (words.has(name)) view[name] = words.get(name) === "1";
  view.page = Math.max(0, (Number.parseInt(words.get("page") ?? "1", 10) || 1) - 1);
  for (const [key, value] of words) {
    const name = key.slice(key.indexOf(".") + 1);
    if (key.startsWith("f.") && FIELDS.has(name)) (view.filters[name] ??= []).push(value);
    if (key.startsWith("limit.") && better(name) && Number.isFinite(Number(value))) view.limits[name] = Number(value);
    if (key === "column" && known(value)) (view.columns ??= []).push(value);
  }
  return view;
}

// Change the view and draw what follows from it. `open` and `page` leave the chart and the answer as they are.
function change(patch) {
  const only = Object.keys(patch);
  state = { ...state, ...patch };
  if (!only.every((name) => name === "row" || name === "page")) state.page = patch.page ?? 0;
  history.replaceState(null, "", `#${toFragment(state)}`);
  render(only);
}

// What a filter or the words of the search leave; `except`: a filter that is not applied.
function filtered(except = null) {
  let rows = ROWS;
  for (const [name, values] of Object.entries(state.filters)) {
    if (name === except || !values.length || !FIELDS.has(name)) continue;
    const known = FIELDS.get(name);
    const wanted = new Set(values);
    const allowed = known.values.map((value) => wanted.has(shown(value)));
    const unknown = wanted.has("–");
    rows = rows.filter((row) => (known.at[row] < 0 ? unknown : allowed[known.at[row]]));
  }
  const words = state.q.toLowerCase().split(/\s+/).filter(Boolean);
  if (words.length) rows = rows.filter((row) => words.every((word) => textOf(row).includes(word)));
  return rows;
}

const texts = new Map();

function textOf(row) {
  if (!texts.has(row)) {
    texts.set(row, [...FIELDS.keys()].map((name) => fieldOf(name, row)).filter((value) => value !== null).join(" ").toLowerCase());
  }
  return texts.get(row);
}

const STANDS = ["in", "out", "company"];
let judged = { key: null, of: null };

// Whether a row is within the constraints: "in", "out", or "company" where a figure that decides was taken in company.
function within(row) {
  if (judged.key !== state.limits) judged = { key: state.limits, of: judge(state.limits) };
  return STANDS[judged.of[row]];
}

function judge(limits) {
  const of = new Uint8Array(COUNT);
  for (const [name, limit] of Object.entries(limits)) {
    const [values, lower] = [numbers(name), better(name) === "lower"];
    for (const row of ROWS) {
      if (!(lower ? values[row] <= limit : values[row] >= limit)) of[row] = 1;
      else if (!of[row] && inCompany(name, row)) of[row] = 2;
    }
  }
  return of;
}
