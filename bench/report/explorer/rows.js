// What the rows are: the data of the page, decoded where they are asked for. A row is its index.

const DATA = JSON.parse(document.getElementById("data").textContent);
const COUNT = DATA.rows.id.length;
const ROWS = Array.from({ length: COUNT }, (_, row) => row);
const MEASURES = new Map(DATA.measures.map((measure) => [measure.name, measure]));

// Name -> {values, at}: what a row is known by; at[row] is an index of values, -1 where it is unknown.
const FIELDS = new Map();
// Name -> its column; of a column with a number a class also `name[class]`.
const COLUMNS = new Map();
const decoded = new Map();

function coded(texts) {
  const values = [...new Set(texts)].filter((text) => text !== null).sort(order);
  const at = new Map(values.map((text, index) => [text, index]));
  return { values, at: texts.map((text) => at.get(text) ?? -1) };
}

// Numbers by their value, names as people sort them: 64x64 before 128x128.
function order(one, other) {
  return typeof one === "number" && typeof other === "number" ? one - other : String(one).localeCompare(String(other), "en", { numeric: true });
}

function tableOf(row) {
  return DATA.tables[DATA.rows.table[row]];
}

function partOf(measure, row) {
  return measure.at[row];
}

function statusOf(row) {
  const found = new Set();
  for (const measure of DATA.measures) {
    const part = partOf(measure, row);
    if (part >= 0 && measure.status) found.add(measure.status.values[measure.status.at[part]]);
  }
  const bad = [...found].filter((status) => status !== "ok").sort();
  return bad.length ? bad.join(", ") : "ok";
}

function inputOf(row) {
  const [height, width] = [DATA.fields.height, DATA.fields.width];
  return height && height.at[row] >= 0 ? `${height.values[height.at[row]]}x${width.values[width.at[row]]}` : null;
}

function prepare() {
  const several = new Set(DATA.tables.map((table) => `${table.machine}/${table.comparable}`)).size > DATA.machines.length;
  FIELDS.set("machine", coded(ROWS.map((row) => DATA.machines[tableOf(row).machine][0])));
  if (several) {
    FIELDS.set("environment", coded(ROWS.map((row) => `${tableOf(row).environment} (${tableOf(row).comparable})`)));
  }
  FIELDS.set("task", coded(ROWS.map((row) => tableOf(row).task)));
  FIELDS.set("dataset", coded(ROWS.map((row) => tableOf(row).dataset)));
  for (const name of ["recipe", "backbone", "patch", "head"]) if (DATA.fields[name]) FIELDS.set(name, DATA.fields[name]);
  FIELDS.set("input", coded(ROWS.map(inputOf)));
  for (const [name, known] of Object.entries(DATA.fields)) {
    if (!FIELDS.has(name) && name !== "height" && name !== "width") FIELDS.set(name, known);
  }
  if (DATA.rows.bound.values.some(Boolean)) FIELDS.set("bound by", DATA.rows.bound);
  FIELDS.set("status", coded(ROWS.map(statusOf)));
  for (const column of DATA.columns) {
    const measure = MEASURES.get(column.measure);
    if (measure.numbers[column.name]) COLUMNS.set(column.name, column);
    const classes = measure.classes && measure.classes[column.name];
    for (const text of classes ? new Set(classes.names.flat()) : []) {
      const name = `${column.name}[${text}]`;
      COLUMNS.set(name, { ...column, name, title: `${column.title} of ${text}`, of: column.name, class: text, headline: false });
    }
  }
}

function fieldOf(name, row) {
  const known = FIELDS.get(name);
  const at = known ? known.at[row] : -1;
  return at < 0 ? null : known.values[at];
}

// Text of a field's value; what is unknown is an en dash.
function shown(value) {
  return value === null || value === "" ? "–" : String(value);
}

function labelOf(name) {
  const column = COLUMNS.get(name);
  if (!column) return name === "dataset" ? "data set" : name.replaceAll("_", " ");
  return !column.unit || column.unit.startsWith("1/") ? column.title : `${column.title} (${column.unit})`;
}

// A number of every row, NaN where it is unknown.
function numbers(name) {
  if (!decoded.has(name)) {
    const column = COLUMNS.get(name);
    const measure = MEASURES.get(column.measure);
    const of = column.class === undefined ? measure.numbers[name] : ofClass(measure.classes[column.of], column.class);
    decoded.set(name, Float64Array.from(ROWS, (row) => (measure.at[row] < 0 ? NaN : (of[measure.at[row]] ?? NaN))));
  }
  return decoded.get(name);
}

// The numbers by which rows are ordered: times of several sessions at one speed of the machine, as they are compared.
function standing(name) {
  const column = COLUMNS.get(name);
  const measure = MEASURES.get(column.measure);
  const moved = measure.standing?.[name];
  if (!moved) return numbers(name);
  const key = `standing ${name}`;
  if (!decoded.has(key)) decoded.set(key, numbers(name).map((value, row) => moved[measure.at[row]] ?? value));
  return decoded.get(key);
}

function ofClass(classes, name) {
  const places = classes.names.map((names) => names.indexOf(name));
  return classes.at.map((list, part) => (list < 0 || places[list] < 0 ? null : classes.values[part][places[list]]));
}

// Whether a number was taken while other processes used the machine.
function inCompany(name, row) {
  const column = COLUMNS.get(name);
  const measure = MEASURES.get(column.measure);
  const timed = column.timed || measure.name === "roofline";
  return Boolean(timed && measure.company && measure.company[measure.at[row]] !== undefined);
}

// [seeds, standard deviation] of a mean over seeds, or null.
function spreadOf(name, row) {
  const column = COLUMNS.get(name);
  const measure = MEASURES.get(column.measure);
  return measure.spread?.[name]?.[measure.at[row]] ?? null;
}

// The two ends of a time's interval, or null.
function endsOf(name, row) {
  const measure = MEASURES.get(COLUMNS.get(name).measure);
  const found = measure.ends?.[name]?.[measure.at[row]];
  return found && found.length === 2 ? found : null;
}

function rounded(value, digits) {
  const text = value.toFixed(digits);
  return value !== 0 && Number(text) === 0 ? value.toPrecision(1) : text;
}

// A number as the tables show it.
function numberText(name, row) {
  const value = numbers(name)[row];
  if (Number.isNaN(value)) return "";
  return (inCompany(name, row) ? `${DATA.company.sign}\u00a0` : "") + rounded(value, COLUMNS.get(name).digits);
}

// A number with its unit, and what is known of its error.
function withUnit(name, row) {
  const { digits, unit } = COLUMNS.get(name);
  const text = numberText(name, row);
  if (!text) return "";
  const seeds = spreadOf(name, row);
  const ends = endsOf(name, row);
  const sd = seeds && seeds[1] !== null ? ` ± ${rounded(seeds[1], digits)}` : "";
  const words = [text + sd, unit, seeds ? `(${seeds[0]} seeds)` : "", ends ? `(${rounded(ends[0], digits)}–${rounded(ends[1], digits)})` : ""];
  return words.filter(Boolean).join(" ");
}

// What tells rows apart beyond backbone, patch, head and input: fields of several values among these rows.
function varying(rows) {
  const usual = new Set(["machine", "environment", "task", "dataset", "backbone", "patch", "head", "input", "bound by", "status"]);
  return [...FIELDS.keys()].filter((name) => {
    if (usual.has(name)) return false;
    const { at } = FIELDS.get(name);
    let first = -1;
    for (const row of rows) {
      if (at[row] < 0) continue;
      if (first < 0) first = at[row];
      else if (at[row] !== first) return true;
    }
    return false;
  });
}

function nameOf(row, others = []) {
  const words = [[fieldOf("backbone", row), fieldOf("patch", row)].filter((value) => value !== null).join("/")];
  for (const name of ["head", "input"]) if (fieldOf(name, row) !== null) words.push(fieldOf(name, row));
  for (const name of others) {
    const value = fieldOf(name, row);
    if (value !== null && value !== DATA.defaults[name]) words.push(`${labelOf(name)} ${value}`);
  }
  return words.join(" ");
}

prepare();
