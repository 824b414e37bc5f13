// What the user sets: axes, constraints, filters, columns of the table.

const MANY = 12; // values of a filter from which on it can be searched
const MOST = 150; // values of a filter that are listed at a time

function fill(select, groups, chosen) {
  const made = groups.filter(([, options]) => options.length).map(([title, options]) => {
    const items = options.map(([value, text]) => element("option", { value }, text));
    return title ? element("optgroup", { label: title }, ...items) : items;
  });
  select.replaceChildren(...made.flat());
  select.value = chosen;
}

// Columns by their measure, those with a number a class last.
function columnGroups(wanted = () => true) {
  const found = new Map();
  for (const [name, column] of COLUMNS) {
    if (!wanted(name)) continue;
    const title = column.class === undefined ? column.measure : `${column.measure}, by class`;
    if (!found.has(title)) found.set(title, []);
    found.get(title).push([name, labelOf(name)]);
  }
  const groups = [...found];
  return [...groups.filter(([title]) => !title.endsWith("by class")), ...groups.filter(([title]) => title.endsWith("by class"))];
}

function drawAxes() {
  const fields = ["fields", [...FIELDS.keys()].map((name) => [name, labelOf(name)])];
  const none = ["", [["", "none"]]];
  for (const name of ["x", "y"]) fill(document.getElementById(name), columnGroups(), state[name]);
  for (const name of ["colour", "facet"]) fill(document.getElementById(name), [none, fields, ...columnGroups((column) => COLUMNS.get(column).class === undefined)], state[name]);
  for (const name of Object.keys(FLAGS)) document.getElementById(name).checked = state[name];
}

// The numbers of a column among rows, in order, each once.
function steps(name, rows) {
  const of = numbers(name);
  return [...new Set(rows.map((row) => of[row]).filter((value) => !Number.isNaN(value)))].sort((one, other) => one - other);
}

function offered() {
  const usual = [state.x, state.y, ...USUAL, ...Object.keys(state.limits)];
  return [...new Set(usual)].filter((name) => COLUMNS.has(name) && better(name));
}

let added = [];

function drawLimits(rows) {
  const names = [...new Set([...offered(), ...added])];
  const place = document.getElementById("limits");
  place.replaceChildren(...names.map((name) => limitOf(name, steps(name, rows))).filter(Boolean));
  const seen = (name) => COLUMNS.get(name).class === undefined || steps(name, rows).length > 0;
  const rest = columnGroups((name) => better(name) && !names.includes(name) && seen(name));
  fill(document.getElementById("add-limit"), [["", [["", "another column…"]]], ...rest], "");
}

// An id without spaces, whatever a class is called.
function limitId(name) {
  return `limit-${name.replace(/[^A-Za-z0-9_]/g, (letter) => `.${letter.codePointAt(0).toString(16)}.`)}`;
}

// A slider over the values that there are: each step lets one more row in or out. At its loose end there is no constraint.
function limitOf(name, values) {
  const limit = state.limits[name];
  if (!values.length && limit === undefined) return null;
  const lower = better(name) === "lower";
  const id = limitId(name);
  const loose = lower ? values.length : -1;
  let at = loose;
  if (limit !== undefined) at = lower ? values.filter((value) => value <= limit).length - 1 : values.findIndex((value) => value >= limit);
  if (limit !== undefined && !lower && at < 0) at = values.length;
  const words = limit === undefined ? "any" : `${lower ? "≤" : "≥"} ${exact(limit, name)}`;
  const out = element("output", { for: id }, words);
  const slider = element("input", {
    type: "range", id, min: lower ? 0 : -1, max: lower ? values.length : values.length - 1, step: 1, "data-limit": name,
    "aria-label": `${labelOf(name)}, ${lower ? "at most" : "at least"}`, "aria-valuetext": words, "aria-describedby": `${id}-text`,
  });
  slider.value = at;
  const chosen = () => (Number(slider.value) === loose ? undefined : values[Number(slider.value)]);
  slider.addEventListener("input", () => setLimit(name, chosen()));
  const box = element("input", { type: "number", step: "any", "aria-label": `${labelOf(name)}, exact limit`, placeholder: "any" });
  box.value = limit ?? "";
  box.addEventListener("change", () => setLimit(name, box.value === "" ? undefined : Number(box.value)));
  const title = element("span", { id: `${id}-text` }, labelOf(name));
  return element("div", { class: limit === undefined ? "limit" : "limit set", "data-of": name }, title, out, slider, box);
}

function exact(value, name) {
  const { digits } = COLUMNS.get(name);
  const short = rounded(value, digits);
  return Number(short) === value ? short : String(Number(value.toPrecision(6)));
}

let waiting = 0;

function setLimit(name, value) {
  const limits = { ...state.limits };
  delete limits[name];
  if (value !== undefined && !Number.isNaN(value)) limits[name] = value;
  state = { ...state, limits, page: 0 };
  tell(name, value);
  cancelAnimationFrame(waiting);
  waiting = requestAnimationFrame(() => change({ limits: state.limits }));
}

// While a slider is held it stays the same element, so that neither the pointer nor the keyboard loses it.
function tell(name, value) {
  const place = document.querySelector(`#limits [data-of="${CSS.escape(name)}"]`);
  if (!place) return;
  const words = value === undefined ? "any" : `${better(name) === "lower" ? "≤" : "≥"} ${exact(value, name)}`;
  place.classList.toggle("set", value !== undefined);
  place.querySelector("output").textContent = words;
  place.querySelector("input[type=range]").setAttribute("aria-valuetext", words);
  const box = place.querySelector("input[type=number]");
  if (document.activeElement !== box) box.value = value ?? "";
}

const opened = new Set(["machine", "task", "dataset", "recipe"]);
const searched = new Map();

function drawFilters() {
  const place = document.getElementById("filters");
  const focus = document.activeElement?.dataset?.focus;
  place.replaceChildren(...[...FIELDS.keys()].map(filterOf).filter(Boolean));
  if (focus) place.querySelector(`[data-focus="${CSS.escape(focus)}"]`)?.focus();
}

function filterOf(name) {
  const known = FIELDS.get(name);
  const chosen = state.filters[name] ?? [];
  if (known.values.length + (known.at.includes(-1) ? 1 : 0) < 2 && !chosen.length) return null;
  const counts = new Map();
  for (const row of filtered(name)) {
    const value = shown(fieldOf(name, row));
    counts.set(value, (counts.get(value) ?? 0) + 1);
  }
  const all = [...known.values.map(shown), ...(known.at.includes(-1) ? ["–"] : [])];
  const open = opened.has(name) || chosen.length > 0;
  const title = element("summary", {}, labelOf(name), element("small", {}, chosen.length ? ` ${chosen.length} of ${all.length}` : ` ${all.length}`));
  const made = element("details", { class: chosen.length ? "filter set" : "filter", "data-filter": name, open }, title);
  made.addEventListener("toggle", () => (made.open ? opened.add(name) : opened.delete(name)));
  made.append(...valueList(name, all, chosen, counts));
  return made;
}

function valueList(name, all, chosen, counts) {
  const word = (searched.get(name) ?? "").toLowerCase();
  const fitting = all.filter((value) => chosen.includes(value) || value.toLowerCase().includes(word));
  const first = fitting.filter((value) => counts.has(value) || chosen.includes(value));
  const listed = [...first, ...fitting.filter((value) => !first.includes(value))].slice(0, MOST);
  const found = [];
  if (all.length > MANY) {
    const box = element("input", { type: "search", placeholder: `find a ${labelOf(name)}`, "aria-label": `find a ${labelOf(name)}`, "data-focus": `search ${name}` });
    box.value = searched.get(name) ?? "";
    box.addEventListener("change", () => (searched.set(name, box.value), drawFilters()));
    found.push(box);
  }
  const list = listed.map((value) => {
    const box = element("input", { type: "checkbox", value, "data-focus": `${name} ${value}` });
    box.checked = chosen.includes(value);
    box.addEventListener("change", () => toggle(name, value, box.checked));
    return element("label", { class: counts.has(value) ? null : "none" }, box, element("span", {}, value), element("small", {}, String(counts.get(value) ?? 0)));
  });
  found.push(element("div", { class: "values", role: "group", "aria-label": labelOf(name) }, ...list));
  if (fitting.length > listed.length) found.push(element("p", { class: "more" }, `and ${fitting.length - listed.length} more; find them by name`));
  if (chosen.length) found.push(element("button", { type: "button", class: "small", "data-focus": `all ${name}`, onclick: () => setFilter(name, []) }, `all of ${labelOf(name)}`));
  return found;
}

function toggle(name, value, on) {
  const chosen = new Set(state.filters[name] ?? []);
  if (on) chosen.add(value);
  else chosen.delete(value);
  setFilter(name, [...chosen]);
}

function setFilter(name, values) {
  const filters = { ...state.filters };
  delete filters[name];
  if (values.length) filters[name] = values;
  state = { ...state, filters };
  change({ filters, ...fittingAxes() });
}

// Axes that some row on show has: the accuracy of the task on show rather than that of another.
function fittingAxes() {
  const rows = filtered();
  const has = (name) => name && rows.some((row) => !Number.isNaN(numbers(name)[row]));
  const patch = {};
  if (rows.length && !has(state.y)) {
    const found = [...COLUMNS.keys()].find((name) => COLUMNS.get(name).headline && has(name));
    if (found) Object.assign(patch, { y: found, sort: `-${found}` });
  }
  if (rows.length && !has(state.x)) {
    const found = [...COLUMNS.keys()].find((name) => better(name) === "lower" && COLUMNS.get(name).table && has(name));
    if (found) patch.x = found;
  }
  return patch;
}

function drawColumns(rows) {
  const chosen = tableColumns(rows);
  const names = [...FIELDS.keys(), ...COLUMNS.keys()].filter((name) => COLUMNS.get(name)?.class === undefined || chosen.includes(name));
  const place = document.getElementById("columns");
  place.replaceChildren(...names.map((name) => {
    const box = element("input", { type: "checkbox", value: name });
    box.checked = chosen.includes(name);
    box.addEventListener("change", () => change({ columns: box.checked ? [...tableColumns(rows), name] : tableColumns(rows).filter((one) => one !== name) }));
    return element("label", {}, box, labelOf(name));
  }));
}

// Every machine, task, data set and recipe that there is, the most rows first.
function drawJump() {
  const found = new Map();
  for (const row of ROWS) {
    if (fieldOf("recipe", row) === null) continue;
    const key = ["machine", "task", "dataset", "recipe"].map((name) => fieldOf(name, row)).join("\u0000");
    found.set(key, (found.get(key) ?? 0) + 1);
  }
  const options = [...found].sort((one, other) => other[1] - one[1]).slice(0, 300);
  const select = document.getElementById("jump");
  const text = ([key, count]) => `${key.split("\u0000").join(" · ")} (${count})`;
  select.replaceChildren(element("option", { value: "" }, "a machine, task, data set and recipe…"), ...options.map((one, index) => element("option", { value: index }, text(one))));
  select.addEventListener("change", () => select.value !== "" && jump(options[Number(select.value)][0]));
}

function mostFrequent(name, rows) {
  const counts = new Map();
  for (const row of rows) if (fieldOf(name, row) !== null) counts.set(fieldOf(name, row), (counts.get(fieldOf(name, row)) ?? 0) + 1);
  return shown([...counts].sort((one, other) => other[1] - one[1])[0][0]);
}

function jump(key) {
  const names = ["machine", "task", "dataset", "recipe"];
  const filters = Object.fromEntries(key.split("\u0000").map((value, index) => [names[index], [value]]));
  state.filters = filters;
  const batches = valuesOf("batch", filtered().filter((row) => fieldOf("batch", row) !== null));
  if (batches.length > 1) filters.batch = [mostFrequent("batch", filtered())];
  change({ filters, limits: {}, q: "", columns: null, ...fittingAxes() });
}
