// The page as a whole: what is drawn when the view changes.

function render(only = null) {
  if (only && only.every((name) => name === "row")) return drawDetail(look());
  const found = look();
  if (!(only && only.every((name) => name === "page" || name === "sort"))) {
    if (!(only && only.length === 1 && only[0] === "limits")) {
      drawAxes();
      drawFilters();
      drawLimits(found.rows);
    }
    drawSummary(found);
    drawAnswer(found);
    drawColumns(found.inside);
    drawNotes(found);
    chartSoon(found);
  }
  const box = document.getElementById("find");
  if (document.activeElement !== box) box.value = state.q;
  drawTable(found);
  drawDetail(found);
}

let soon = 0;

// A chart of thousands of points takes a moment: while a slider moves, the answer goes before it.
function chartSoon(found) {
  clearTimeout(soon);
  if (found.points.length <= SVG) return drawChart(found);
  soon = setTimeout(() => drawChart(found), 200);
}

let looked = { key: null, found: null };

// What follows from the view: rows on show, those within the constraints, points, fronts, and answers.
function look() {
  const key = JSON.stringify({ ...state, row: "", page: 0, sort: "", columns: null });
  if (looked.key === key) return looked.found;
  const rows = filtered();
  const inside = rows.filter((row) => within(row) !== "out");
  const charted = COLUMNS.has(state.x) && COLUMNS.has(state.y) ? points(rows) : [];
  const { marks, lines } = charted.length ? fronts(charted.filter((row) => within(row) === "in")) : { marks: new Map(), lines: [] };
  const answers = COLUMNS.has(state.x) && COLUMNS.has(state.y) && better(state.y) ? solve(inside) : [];
  const picks = new Set(answers.map((answer) => answer.pick).filter((row) => row !== null));
  sharePoints(inside, marks, picks);
  looked = { key, found: { rows, inside, points: charted, answers, picks, marks, lines } };
  return looked.found;
}

// What is said of a row holds for all rows of the same two measurements, one of which stands for them in the chart.
function sharePoints(rows, marks, picks) {
  const parts = [state.x, state.y].map((name) => MEASURES.get(COLUMNS.get(name)?.measure)?.at);
  if (!parts.every(Boolean)) return;
  const point = (row) => `${parts[0][row]} ${parts[1][row]}`;
  const marked = new Map([...marks].map(([row, mark]) => [point(row), mark]));
  const picked = new Set([...picks].map(point));
  for (const row of rows) {
    if (marked.has(point(row))) marks.set(row, marked.get(point(row)));
    if (picked.has(point(row))) picks.add(row);
  }
}

function drawSummary(found) {
  const machines = new Set(DATA.machines.map(([name]) => name)).size;
  const outside = found.rows.length - found.inside.length;
  const words = [`${COUNT} rows of ${machines} machine${machines === 1 ? "" : "s"}`, `${found.rows.length} on show`];
  if (outside) words.push(`${outside} outside the constraints`);
  document.getElementById("summary").textContent = words.join(" · ");
  document.getElementById("chart-title").textContent = COLUMNS.has(state.x) && COLUMNS.has(state.y) ? `${COLUMNS.get(state.y).title} against ${COLUMNS.get(state.x).title}` : "Chart";
  warn(found);
}

// What must not be ranked together is said where it is on show together.
function warn(found) {
  const several = ["task", "dataset", "recipe"].filter((name) => FIELDS.has(name) && valuesOf(name, found.points).length > 1);
  const of = MEASURES.get(COLUMNS.get(state.y)?.measure);
  const place = document.getElementById("warning");
  const words = [];
  if (of?.seeds && several.length) {
    words.push(`Several ${several.map((name) => `${labelOf(name)}s`).join(" and ")} are on show: their accuracies are not comparable. Fronts and answers are made for each of them alone.`);
  }
  if (valuesOf("machine", found.points).length > 1) words.push("Several machines are on show: each has its own front and answer; times of different machines are not claimed to differ.");
  const axes = [state.x, state.y].filter((name) => COLUMNS.has(name)).map(numbers);
  const lacking = found.rows.filter((row) => axes.some((of) => Number.isNaN(of[row]))).length;
  if (lacking && lacking < found.rows.length) words.push(`${lacking} of ${found.rows.length} rows on show lack one of the two numbers; they are in the table alone.`);
  place.textContent = words.join(" ");
  place.hidden = !words.length;
}

const ANSWERS = 4; // answers that are spelled out, and names of ties
const NAMES = 6;

function drawAnswer(found) {
  const place = document.getElementById("answers");
  const made = found.answers.slice(0, ANSWERS).map((answer) => answerText(answer, found));
  const more = found.answers.length - made.length;
  if (more > 0) made.push(element("p", { class: "soft" }, `and ${more} more of other machines, data sets, recipes or batches; filter to see them`));
  if (!made.length) made.push(element("p", {}, noAnswer(found)));
  place.replaceChildren(...made);
}

function noAnswer(found) {
  if (!COLUMNS.has(state.x) || !COLUMNS.has(state.y)) return "There are no two columns of numbers to weigh against each other.";
  if (!better(state.y)) return `${labelOf(state.y)} has no better or worse: choose another column for y to have an answer.`;
  if (!found.rows.length) return "No row is on show: leave out a filter.";
  return `No row on show is within the constraints and has ${labelOf(state.y)}: loosen one.`;
}

function openButton(row, others) {
  return element("button", { type: "button", class: "link", onclick: () => change({ row: DATA.rows.id[row] }) }, nameOf(row, others));
}

function listed(rows, others) {
  const found = rows.slice(0, NAMES).flatMap((row, index) => [index ? ", " : "", openButton(row, others)]);
  return rows.length > NAMES ? [...found, ` and ${rows.length - NAMES} more`] : found;
}

function constraintText() {
  const words = Object.entries(state.limits).map(([name, limit]) => `${COLUMNS.get(name).title} ${better(name) === "lower" ? "≤" : "≥"} ${exact(limit, name)}${COLUMNS.get(name).unit ? ` ${COLUMNS.get(name).unit}` : ""}`);
  return words.length ? ` within ${words.join(", ")}` : "";
}

// One row for each measurement of a column.
function distinct(name, rows) {
  const { at } = MEASURES.get(COLUMNS.get(name).measure);
  const seen = new Set();
  return rows.filter((row) => !seen.has(at[row]) && seen.add(at[row]));
}

function answerText(answer, found) {
  const { best, tied, pick, alike, unknown, group } = answer;
  const others = varying(group);
  const [x, y] = [COLUMNS.get(state.x), COLUMNS.get(state.y)];
  const rest = distinct(state.y, tied.filter((row) => MEASURES.get(y.measure).at[row] !== MEASURES.get(y.measure).at[best]));
  const many = found.answers.length > 1;
  const lines = [];
  if (many) lines.push(element("h3", {}, contextText(best)));
  if (pick === null) lines.push(element("p", { class: "pick" }, noPick(tied, x)));
  else lines.push(pickText(answer, others));
  if (pick !== best || rest.length) {
    const words = [`Best ${y.title}${constraintText()}: `, openButton(best, others), ` with ${withUnit(state.y, best)}. `];
    if (rest.length) words.push(`${rest.length} other${rest.length === 1 ? "" : "s"} cannot be told apart from it: `, ...listed(rest, others), ". ");
    lines.push(element("p", {}, ...words));
  }
  if (unknown) lines.push(element("p", {}, `What may be claimed is not known of all ${y.title} here: a small difference may be chance.`));
  if (alike.length) lines.push(element("p", {}, `By ${COLUMNS.get(state.x).title} alone the pick cannot be told apart from `, ...listed(distinct(state.x, alike), others), "."));
  const company = group.filter((row) => inCompany(state.x, row)).length;
  if (company) lines.push(element("p", { class: "soft" }, `${company} row${company === 1 ? "" : "s"} of it ${company === 1 ? "has" : "have"} ${x.title} taken in company (${DATA.company.sign}), of which nothing is claimed.`));
  return element("div", { class: "answer" }, ...lines);
}

function noPick(tied, x) {
  const why = tied.some((row) => !Number.isNaN(numbers(state.x)[row])) ? "was taken in company, and nothing is claimed of it" : "is unknown";
  return `No pick: ${x.title} of what is best ${why}. A constraint on it leaves such rows out.`;
}

function pickText(answer, others) {
  const { pick } = answer;
  const [x, y] = [COLUMNS.get(state.x), COLUMNS.get(state.y)];
  return element("p", { class: "pick" }, element("span", { "aria-hidden": "true" }, "★ "), "Pick: ", openButton(pick, others), ` – ${y.title} ${withUnit(state.y, pick)}, ${x.title} ${withUnit(state.x, pick)}; ${whyPicked(answer)}.`);
}

function whyPicked({ tied, group, unknown }) {
  const [x, y] = [COLUMNS.get(state.x), COLUMNS.get(state.y)];
  const [alike, all] = [distinct(state.y, tied).length, distinct(state.y, group).length];
  if (all === 1) return `the only one${constraintText()}`;
  if (alike > 1) return x.better === null ? `the best of ${alike} that cannot be told apart` : `the ${x.better === "lower" ? "lowest" : "highest"} ${x.title} of ${alike} that cannot be told apart`;
  return `the best ${y.title}${constraintText()}${unknown ? "" : `, told apart from ${all === 2 ? "the other" : `all ${all - 1} others`}`}`;
}

function drawNotes(found) {
  const texts = new Set(["Input is height x width in pixels; – is unknown. All that is claimed was worked out by densebench from the records; this page only looks it up."]);
  const tables = new Set(found.points.map((row) => DATA.rows.table[row]));
  const recipes = new Set(found.points.map((row) => fieldOf("recipe", row)));
  for (const group of DATA.groups) {
    const shownHere = tables.has(group.table) && (group.recipe === null || recipes.has(group.recipe));
    if (shownHere && (group.columns.includes(state.x) || group.columns.includes(state.y))) texts.add(group.text);
  }
  for (const name of [state.x, state.y]) {
    const column = COLUMNS.get(name);
    if (!column) continue;
    const measure = MEASURES.get(column.measure);
    if (!TIES.has(name)) texts.add(notWorkedOut(column, measure));
    texts.add(`${measure.name}, version ${measure.version}: ${measure.doc}`);
    if (column.note) texts.add(column.note);
    if (column.headline) texts.add(`${column.title} is short-budget learnability where the weights are random: it compares rows of one recipe and data set and is no benchmark accuracy.`);
  }
  document.getElementById("notes-text").replaceChildren(...[...texts].map((text) => element("p", {}, text)));
}

function notWorkedOut(column, measure) {
  if (column.timed) return `${column.title}: two of them are told apart where their 95 % confidence intervals do not overlap; a rough rule, for paired ratios are worked out for the main time alone.`;
  if (measure.seeds) return `${column.title}: what may be claimed is worked out for the accuracy that ranks the task alone; of this column differences may be chance.`;
  return `${column.title} is taken as exact.`;
}

function listen() {
  for (const name of ["x", "y", "colour", "facet"]) {
    document.getElementById(name).addEventListener("change", (event) => {
      const patch = { [name]: event.target.value };
      if (name === "y") patch.sort = better(event.target.value) === "lower" ? event.target.value : `-${event.target.value}`;
      change(patch);
    });
  }
  for (const name of Object.keys(FLAGS)) document.getElementById(name).addEventListener("change", (event) => change({ [name]: event.target.checked }));
  document.getElementById("add-limit").addEventListener("change", (event) => {
    added = [...added, event.target.value];
    drawLimits(look().rows);
    document.getElementById(limitId(added.at(-1)))?.focus();
  });
  let timer = 0;
  document.getElementById("find").addEventListener("input", (event) => {
    clearTimeout(timer);
    timer = setTimeout(() => change({ q: event.target.value.trim() }), 150);
  });
  document.getElementById("previous").addEventListener("click", () => change({ page: state.page - 1 }));
  document.getElementById("next").addEventListener("click", () => change({ page: state.page + 1 }));
  document.getElementById("csv").addEventListener("click", () => download("densebench.csv", asCsv(sorted(look().inside), look())));
  document.getElementById("chart").addEventListener("keydown", (event) => walk(event, look()));
  document.getElementById("chart").addEventListener("blur", () => tip(null));
  document.getElementById("copy").addEventListener("click", (event) => copyText(location.href, event.target));
  document.getElementById("reset").addEventListener("click", () => ((added = []), (state = fresh()), change({ ...state })));
  document.getElementById("beside").addEventListener("click", sideBySide);
  document.getElementById("close").addEventListener("click", () => change({ row: "" }));
  document.getElementById("detail").addEventListener("close", closed);
  document.querySelector(".skip").addEventListener("click", (event) => (event.preventDefault(), document.getElementById("table").focus()));
  addEventListener("hashchange", () => ((state = fromFragment(location.hash.slice(1))), render()));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawChart(look()));
  watchWidth();
}

function sideBySide() {
  const filters = { ...state.filters };
  delete filters.machine;
  change({ filters, facet: "machine" });
}

// Escape closes a dialog without asking: the address follows, and the focus goes back to the row.
function closed() {
  const row = state.row;
  if (row) change({ row: "" });
  document.querySelector(`#table [data-row="${CSS.escape(row)}"]`)?.focus();
}

function watchWidth() {
  let width = document.getElementById("chart").clientWidth;
  let timer = 0;
  new ResizeObserver(([entry]) => {
    if (Math.abs(entry.contentRect.width - width) < 12) return;
    width = entry.contentRect.width;
    clearTimeout(timer);
    timer = setTimeout(() => drawChart(look()), 120);
  }).observe(document.getElementById("chart"));
}

state = fromFragment(location.hash.slice(1));
drawJump();
listen();
render();
