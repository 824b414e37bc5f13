// The chart: Vega-Lite's specification of what is on show, and what its points do.

const LIGHT = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#B8860B", "#3B9BD1", "#444444", "#8C564B", "#7B61B3", "#5B7F1C"];
const DARK = ["#56B4E9", "#FF8A4C", "#2FCB9B", "#E59AC6", "#E6B84C", "#9BD3F5", "#CFCFCF", "#C99A8E", "#B3A1E6", "#A6CC55"];
const SHAPES = ["circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "triangle-right", "triangle-left"];
const LEGEND = 24; // most colours that are explained below the chart
const FACETS = 24; // most charts beside each other
const SVG = 1500; // most points that are drawn as elements, which print sharply
let view = null;
let drawing = 0;

const dark = () => matchMedia("(prefers-color-scheme: dark)").matches;
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// The values of a column or field among rows, in their own order.
function valuesOf(name, rows) {
  if (!name || COLUMNS.has(name)) return [];
  const { values, at } = FIELDS.get(name);
  const found = new Set(rows.map((row) => at[row]));
  const known = values.filter((_, index) => found.has(index)).map(shown);
  return found.has(-1) ? [...known, "–"] : known;
}

// Colour and shape of each value: by its place among all values, so that a filter changes none, where colours suffice.
function styles(rows) {
  const values = valuesOf(state.colour, rows);
  const range = dark() ? DARK : LIGHT;
  const all = valuesOf(state.colour, ROWS);
  const places = all.length <= range.length ? all : values;
  return new Map(values.map((value) => [value, { colour: range[places.indexOf(value) % range.length], shape: SHAPES[places.indexOf(value) % SHAPES.length] }]));
}

function bounds(name, row, bars) {
  const value = numbers(name)[row];
  if (!bars) return [value, value];
  const ends = endsOf(name, row);
  if (ends) return ends;
  const seeds = spreadOf(name, row);
  return seeds && seeds[1] !== null ? [value - seeds[1], value + seeds[1]] : [value, value];
}

function datum(row, marks, picks, style, facets) {
  const [xl, xh] = bounds(state.x, row, state.bars);
  const [yl, yh] = bounds(state.y, row, state.bars);
  const inside = within(row) === "in";
  const company = inCompany(state.x, row) || inCompany(state.y, row);
  const of = style.get(shown(fieldOf(state.colour, row)));
  return {
    i: row, x: numbers(state.x)[row], y: numbers(state.y)[row], xl, xh, yl, yh,
    c: COLUMNS.has(state.colour) ? orNull(numbers(state.colour)[row]) : (of?.colour ?? css("--accent")),
    s: of?.shape ?? "circle",
    f: facets.indexOf(facetOf(row)),
    m: marks.get(row) ?? "",
    p: picks.has(row),
    o: !inside ? 0.16 : company ? 0.5 : 1,
    z: (picks.has(row) ? 3 : marks.get(row) === "front" ? 2 : 1) + (inside ? 10 : 0),
  };
}

// A number for the chart; unknown is null.
function orNull(value) {
  return Number.isNaN(value) ? null : value;
}

function facetOf(row) {
  if (!state.facet) return "";
  return COLUMNS.has(state.facet) ? numberText(state.facet, row) || "–" : shown(fieldOf(state.facet, row));
}

function isLog(name, rows) {
  const wanted = name === state.x ? state.xlog : state.ylog;
  return wanted && rows.length > 0 && rows.every((row) => !(numbers(name)[row] <= 0));
}

// 1, 2 and 5 times powers of ten, as figures have them; every number of a step where they span less than a decade.
function ticks(low, high) {
  const found = [];
  const steps = high / low < 8 ? [1, 1.5, 2, 3, 4, 5, 6, 8] : high / low < 300 ? [1, 2, 5] : [1];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power += 1) {
    for (const step of steps) {
      const value = Number((step * 10 ** power).toPrecision(3));
      if (value >= low && value <= high) found.push(value);
    }
  }
  return found;
}

// The ends of an axis: all points and their bars, and room around them.
function domainOf(values, low, high, log) {
  const ends = [values.reduce((one, value) => Math.min(one, value[low]), Infinity), values.reduce((one, value) => Math.max(one, value[high]), -Infinity)];
  if (log) ends[0] = Math.max(ends[0], values.reduce((one, value) => Math.min(one, value[low[0]]), Infinity) / 10);
  const [from, to] = log ? ends.map(Math.log) : ends;
  const room = (to - from) * 0.06 || (log ? 0.3 : Math.abs(to) * 0.1 || 1);
  return [from - room, to + room].map((end) => (log ? Math.exp(end) : end));
}

function axis(name, key, domain, log) {
  const column = COLUMNS.get(name);
  const arrow = column.better === null ? "" : column.better === "lower" ? " – lower is better" : " – higher is better";
  const scale = { type: log ? "log" : "linear", domain, nice: false, ...(log ? {} : { zero: false }) };
  const found = { field: key, type: "quantitative", scale, title: labelOf(name) + arrow, axis: { format: ".6~g" } };
  if (log) found.axis.values = ticks(...domain);
  return found;
}

// Colour of marks: a number by a scale, where it is unknown grey.
function colouring(rows) {
  if (!COLUMNS.has(state.colour)) return { field: "c", type: "nominal", scale: null, legend: null };
  const known = rows.map((row) => numbers(state.colour)[row]).filter((value) => !Number.isNaN(value));
  if (!known.length) return { value: css("--front") };
  const domain = [known.reduce((one, other) => Math.min(one, other)), known.reduce((one, other) => Math.max(one, other))];
  const log = domain[0] > 0 && domain[1] / domain[0] > 5;
  const scale = { type: log ? "log" : "linear", domain, scheme: { name: "viridis", extent: dark() ? [0.25, 1] : [0.95, 0] }, ...(log ? {} : { zero: false }) };
  const legend = { orient: "top", gradientLength: 260, format: ".6~g", ...(log ? { values: ticks(...domain) } : {}) };
  const of = { field: "c", type: "quantitative", title: labelOf(state.colour), scale, legend };
  return { condition: { test: "isValid(datum.c)", ...of }, value: css("--front") };
}

function layers(rows, lines, frame, labels) {
  const x = axis(state.x, "x", frame.x, frame.logs[0]);
  const y = axis(state.y, "y", frame.y, frame.logs[1]);
  const color = colouring(rows);
  const opacity = { field: "o", type: "quantitative", scale: null, legend: null };
  const bar = (from, to) => ({
    transform: [{ filter: `datum.${from} < datum.${to}` }],
    mark: { type: "rule", strokeWidth: 1, clip: true, aria: false, tooltip: null },
  });
  const found = [
    { ...bar("xl", "xh"), encoding: { x: { ...x, field: "xl" }, x2: { field: "xh" }, y, color, opacity } },
    { ...bar("yl", "yh"), encoding: { x, y: { ...y, field: "yl" }, y2: { field: "yh" }, color, opacity } },
  ];
  if (state.front && lines) {
    const interpolate = better(state.x) === "lower" ? "step-after" : "step-before";
    found.unshift({
      transform: [{ filter: "datum.l !== ''" }],
      mark: { type: "line", interpolate, stroke: css("--front"), strokeWidth: 1.5, aria: false, tooltip: null },
      encoding: { x, y, detail: { field: "l", type: "nominal" } },
    });
  }
  const marks = (name, test, fill) => ({
    name,
    transform: [{ filter: test }],
    mark: { type: "point", aria: false, tooltip: null, cursor: "pointer", ...fill },
    encoding: {
      x, y, color, opacity,
      shape: { field: "s", type: "nominal", scale: null, legend: null },
      strokeWidth: { condition: { test: "datum.m === 'near'", value: 3 }, value: 1.6 },
      size: { condition: { test: "datum.p", value: 190 }, value: rows.length > 600 ? 34 : 80 },
      order: { field: "z", type: "quantitative" },
    },
  });
  found.push(marks("points", "datum.m !== 'front'", { fill: css("--panel") }), marks("front", "datum.m === 'front'", { filled: true }));
  found.push({
    transform: [{ filter: "datum.p" }],
    mark: { type: "point", shape: "circle", size: 620, strokeWidth: 1.6, stroke: css("--pick"), fill: null, aria: false, tooltip: null },
    encoding: { x, y },
  });
  if (labels.length) {
    found.push({
      data: { values: labels },
      mark: { type: "text", align: "left", baseline: "middle", dx: { expr: "datum.dx" }, dy: { expr: "datum.dy" }, fontSize: 11, fill: css("--text"), aria: false, tooltip: null },
      encoding: { x, y, text: { field: "n", type: "nominal" } },
    });
  }
  return found;
}

function configuration() {
  const [text, line, panel] = [css("--soft"), css("--line"), css("--panel")];
  return {
    background: "transparent",
    font: css("--font"),
    view: { stroke: line, fill: panel },
    axis: { labelColor: text, titleColor: text, gridColor: line, gridOpacity: 0.7, domainColor: line, tickColor: line, labelFontSize: 12, titleFontSize: 12, titleFontWeight: 500, labelOverlap: "greedy" },
    header: { labelColor: css("--text"), titleColor: text, labelFontSize: 12, labelFontWeight: 600, labelLimit: 400 },
    legend: { labelColor: text, titleColor: text },
  };
}

// Names of the front, where one has room beside its point: it covers no other name and no point.
function labelsOf(rows, marks, values, frame) {
  const front = rows.filter((row) => marks.get(row) === "front" && within(row) === "in");
  if (state.facet || front.length > 40) return [];
  const names = shortNames(front);
  const at = (value) => [share(value.x, frame.x, frame.logs[0]) * frame.width, (1 - share(value.y, frame.y, frame.logs[1])) * frame.height];
  const taken = values.map((value) => at(value)).map(([x, y]) => [x - 6, y - 6, x + 6, y + 6]);
  const found = [];
  for (const value of values.filter((one) => front.includes(one.i))) {
    const name = names.get(value.i);
    const [x, y] = at(value);
    const wide = 6.1 * name.length;
    const places = [[-8 - wide, -11], [8, -11], [10, 0], [-10 - wide, 0], [-wide / 2, -17], [-wide / 2, 17]];
    const box = (dx, dy) => [x + dx, y + dy - 7, x + dx + wide, y + dy + 7];
    const free = places.find(([dx, dy]) => isFree(box(dx, dy), taken, frame));
    if (!free) continue;
    taken.push(box(...free));
    found.push({ x: value.x, y: value.y, i: value.i, n: name, dx: free[0], dy: free[1] });
  }
  return found;
}

function isFree([left, top, right, bottom], taken, frame) {
  if (left < 2 || top < 2 || right > frame.width - 2 || bottom > frame.height - 2) return false;
  return taken.every((other) => right <= other[0] || other[2] <= left || bottom <= other[1] || other[3] <= top);
}

function share(value, [low, high], log) {
  return log ? Math.log(value / low) / Math.log(high / low) : (value - low) / (high - low);
}

// Names that say no more than it takes to tell these rows apart.
function shortNames(rows) {
  const several = (name) => valuesOf(name, rows).length > 1;
  const others = varying(rows).filter((name) => name !== "recipe");
  const names = ["head", "input"].filter(several);
  return new Map(rows.map((row) => {
    const first = [fieldOf("backbone", row), fieldOf("patch", row)].filter((value) => value !== null).join("/");
    const rest = others.filter((name) => fieldOf(name, row) !== null && fieldOf(name, row) !== DATA.defaults[name]).map((name) => `${labelOf(name)} ${fieldOf(name, row)}`);
    return [row, [first, ...names.map((name) => shown(fieldOf(name, row))), ...rest].join(" ")];
  }));
}

function specification(rows, marks, lines, picks, style, width) {
  const place = new Map(lines.flatMap((line, index) => line.map((row) => [row, String(index)])));
  const facets = facetNames(rows);
  const values = rows.map((row) => ({ ...datum(row, marks, picks, style, facets), l: place.get(row) ?? "" }));
  const logs = [isLog(state.x, rows), isLog(state.y, rows)];
  const frame = { logs, x: domainOf(values, "xl", "xh", logs[0]), y: domainOf(values, "yl", "yh", logs[1]), width: width - 62, height: Math.min(440, Math.max(260, width * 0.55)) };
  const labels = labelsOf(rows, marks, values, frame);
  const layer = layers(rows, lines.length > 0, frame, labels);
  const base = { data: { values }, config: configuration(), autosize: { type: "pad", contains: "padding" }, padding: 4 };
  if (!state.facet) return { ...base, width: frame.width, height: frame.height, layer };
  const columns = Math.max(1, Math.min(facets.length, Math.floor(width / 260)));
  const each = Math.max(170, Math.floor((width - 66) / columns) - 22);
  return {
    ...base,
    // Names are values and never a part of an expression, which they could break.
    params: [{ name: "facets", value: facets }],
    facet: { field: "f", type: "ordinal", title: labelOf(state.facet), header: { labelExpr: "facets[datum.value]" } },
    columns,
    spec: { width: each, height: Math.min(300, Math.max(200, each * 0.75)), layer },
  };
}

// What facets are called, in their order.
function facetNames(rows) {
  if (!state.facet) return [""];
  if (!COLUMNS.has(state.facet)) return valuesOf(state.facet, rows);
  const of = numbers(state.facet);
  const ordered = [...rows].sort((one, other) => (Number.isNaN(of[one]) ? 1 : Number.isNaN(of[other]) ? -1 : of[one] - of[other]));
  return [...new Set(ordered.map(facetOf))];
}

async function drawChart(found) {
  const place = document.getElementById("chart");
  const { points: rows, marks, lines, picks } = found;
  const style = styles(rows);
  const asked = ++drawing;
  legend(style, rows);
  if (view) view.finalize();
  view = null;
  place.replaceChildren();
  place.removeAttribute("role");
  delete place.dataset.drawn;
  if (!rows.length) return place.append(emptyChart());
  if (state.facet && facetNames(rows).length > FACETS) {
    return place.append(element("p", { class: "note" }, `${labelOf(state.facet)} has more than ${FACETS} values on show; filter them, or choose another facet.`));
  }
  const width = Math.max(260, place.clientWidth - 8);
  const spec = specification(rows, marks, lines, picks, style, width);
  const renderer = rows.length > SVG ? "canvas" : "svg";
  const made = await vegaEmbed(place, spec, { mode: "vega-lite", renderer, actions: false, tooltip: false, hover: false, defaultStyle: false });
  if (asked !== drawing) return made.finalize(); // a later view was drawn meanwhile
  view = made;
  place.setAttribute("role", "img");
  place.setAttribute("aria-label", `${labelOf(state.y)} against ${labelOf(state.x)} of ${rows.length} points; the table below has the same rows`);
  made.view.addEventListener("click", (_, item) => item?.datum?.i !== undefined && change({ row: DATA.rows.id[item.datum.i] }));
  made.view.addEventListener("mousemove", (event, item) => tip(event, item?.datum?.i, found));
  made.view.addEventListener("mouseout", () => tip(null));
  place.dataset.drawn = String(rows.length);
}

function emptyChart() {
  if (!COLUMNS.has(state.x) || !COLUMNS.has(state.y)) return element("p", { class: "note" }, "There are no two columns of numbers to draw.");
  const text = `No row on show has both ${labelOf(state.x)} and ${labelOf(state.y)}. Choose other columns, or leave out a filter.`;
  return element("p", { class: "note" }, text);
}

function legend(style, rows) {
  const list = document.getElementById("legend");
  list.replaceChildren();
  if (style.size > 1 && style.size <= LEGEND) {
    for (const [value, { colour, shape }] of style) list.append(element("li", {}, symbol(shape, colour), ` ${value}`));
  } else if (style.size > LEGEND) {
    list.append(element("li", {}, `${style.size} values of ${labelOf(state.colour)}; colours stand for several of them. Point at a mark for its name.`));
  }
  const words = [];
  if (state.front && better(state.x) && better(state.y)) {
    words.push("Filled, joined by the line: Pareto-optimal among what is on show. Thick outline: may belong there, what beats it does so by less than may be claimed.");
  }
  if (Object.keys(state.limits).length) words.push("Faint: outside the constraints.");
  words.push("Ring: the pick.");
  if (state.bars) words.push("Bars: 95 % confidence interval of a time, standard deviation over seeds of an accuracy.");
  if (rows.some((row) => inCompany(state.x, row) || inCompany(state.y, row))) words.push(`Half faint: ${DATA.company.note}.`);
  document.getElementById("key").textContent = words.join(" ");
}

const PATHS = {
  circle: "M-5,0a5,5 0 1,0 10,0a5,5 0 1,0 -10,0", square: "M-4.5,-4.5h9v9h-9z", "triangle-up": "M0,-5L5,4H-5z",
  "triangle-down": "M0,5L5,-4H-5z", diamond: "M0,-6L5,0L0,6L-5,0z", cross: "M-5,-1.8h3.2v-3.2h3.6v3.2h3.2v3.6h-3.2v3.2h-3.6v-3.2h-3.2z",
  "triangle-right": "M5,0L-4,-5V5z", "triangle-left": "M-5,0L4,-5V5z",
};

function symbol(shape, colour) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "-7 -7 14 14");
  svg.setAttribute("width", "14");
  svg.setAttribute("height", "14");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", PATHS[shape]);
  path.setAttribute("fill", colour);
  svg.append(path);
  return svg;
}

function tip(event, row, found) {
  const box = document.getElementById("tip");
  box.hidden = row === undefined;
  if (box.hidden) return;
  const mark = found.marks.get(row);
  const lines = [
    element("strong", {}, nameOf(row, varying(found.points))),
    element("span", {}, `${COLUMNS.get(state.y).title} ${withUnit(state.y, row)}`),
    element("span", {}, `${COLUMNS.get(state.x).title} ${withUnit(state.x, row)}`),
  ];
  if (mark) lines.push(element("em", {}, mark === "front" ? "Pareto-optimal" : "may be Pareto-optimal: beaten by less than may be claimed"));
  box.replaceChildren(...lines);
  const wide = box.offsetWidth;
  box.style.left = `${Math.min(event.clientX + 14, innerWidth - wide - 8)}px`;
  box.style.top = `${event.clientY + 14}px`;
}

let walked = null;

// By the keyboard: left and right go from point to point in the order of x, Enter opens one. What it is at is said.
function walk(event, found) {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (event.key === "Enter" && found.points.includes(walked)) change({ row: DATA.rows.id[walked] });
  if (!step || !found.points.length || !view) return;
  event.preventDefault();
  const x = numbers(state.x);
  const ordered = [...found.points].sort((one, other) => x[one] - x[other] || one - other);
  const next = ordered.includes(walked) ? ordered.indexOf(walked) + step : step > 0 ? 0 : ordered.length - 1;
  walked = ordered[Math.max(0, Math.min(ordered.length - 1, next))];
  const [left, top] = pixelOf(walked);
  tip({ clientX: left - 14, clientY: top - 4 }, walked, found);
  document.getElementById("said").textContent = [...document.getElementById("tip").children].map((line) => line.textContent).join(", ");
}

// Where a point is in the window: found in what Vega has drawn.
function pixelOf(row) {
  const box = document.querySelector("#chart svg, #chart canvas").getBoundingClientRect();
  const [left, top] = view.view.origin();
  const todo = [[view.view.scenegraph().root, 0, 0]];
  while (todo.length) {
    const [mark, x, y] = todo.pop();
    for (const item of mark.items ?? []) {
      if (mark.marktype === "group") todo.push(...item.items.map((inner) => [inner, x + (item.x ?? 0), y + (item.y ?? 0)]));
      else if (mark.marktype === "symbol" && item.datum?.i === row) return [box.left + left + x + item.x, box.top + top + y + item.y];
    }
  }
  return [box.left, box.top];
}
