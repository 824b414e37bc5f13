// Which rows nothing beats, and which is the best within the constraints. What may be claimed was worked out by
// densebench and is in the data (`groups`); where it is not known, the page says so.

const TIES = new Map();

for (const group of DATA.groups) {
  const of = TIES.get(group.columns[0]) ?? new Map();
  for (const name of group.columns) TIES.set(name, of);
  group.parts.forEach((part, place) => of.set(part, { group, place }));
  group.sets = group.tied && group.tied.map((places) => new Set(places));
}

function tieOf(name, row) {
  return TIES.get(name)?.get(MEASURES.get(COLUMNS.get(name)?.measure)?.at[row]) ?? null;
}

// Whether a difference between two rows in a column may be claimed; null where that is not known.
function apart(name, one, other) {
  const column = COLUMNS.get(name);
  const measure = MEASURES.get(column.measure);
  if (measure.at[one] === measure.at[other]) return false;
  if (inCompany(name, one) || inCompany(name, other)) return null;
  const [first, second] = [tieOf(name, one), tieOf(name, other)];
  if (first && second) return first.group === second.group ? apartWithin(name, first, second, one, other) : null;
  if (column.timed) return disjoint(endsOf(name, one), endsOf(name, other));
  return measure.seeds ? null : numbers(name)[one] !== numbers(name)[other];
}

function apartWithin(name, first, second, one, other) {
  const { group } = first;
  // Where seed noise is unknown, any difference ranks, and none is claimed.
  if (group.sets) return !group.sets[first.place].has(second.place) && (group.recipe !== null && group.seed === null ? null : true);
  if (group.recipe === null) return disjoint(endsOf(name, one), endsOf(name, other));
  if (group.seed === null) return null;
  const [n, m] = [one, other].map((row) => spreadOf(name, row)?.[0] ?? 1);
  return Math.abs(numbers(name)[one] - numbers(name)[other]) > group.seed * Math.sqrt(1 / n + 1 / m);
}

function disjoint(one, other) {
  return one && other ? one[1] < other[0] || other[1] < one[0] : null;
}

// What rows of one context share beside their table: fields that a column of the axes depends on.
function shared() {
  const depends = new Set([state.x, state.y].flatMap((name) => MEASURES.get(COLUMNS.get(name)?.measure)?.fields ?? []));
  return ["recipe", "batch"].filter((name) => depends.has(name) && FIELDS.has(name));
}

let placed = { key: null, of: null };

// Rows that may be compared: one table, and one recipe and batch where the axes depend on them. A text for each row.
function context(row) {
  const key = `${state.x}\u0000${state.y}`;
  if (placed.key !== key) placed = { key, of: placesOf(shared()) };
  return placed.of[row];
}

function placesOf(names) {
  return ROWS.map((row) => [DATA.rows.table[row], ...names.map((name) => FIELDS.get(name).at[row])].join(" "));
}

function contextText(row) {
  const table = tableOf(row);
  const words = [DATA.machines[table.machine][0], `${table.task} on ${table.dataset}`];
  for (const name of shared()) if (fieldOf(name, row) !== null) words.push(`${name} ${fieldOf(name, row)}`);
  return words.join(", ");
}

function contexts(rows) {
  const found = new Map();
  for (const row of rows) {
    const key = context(row);
    if (!found.has(key)) found.set(key, []);
    found.get(key).push(row);
  }
  return [...found.values()];
}

// One row of each pair of measurements: rows that differ in what neither axis depends on are one point.
function points(rows) {
  const [x, y] = [state.x, state.y].map((name) => numbers(name));
  const parts = [state.x, state.y].map((name) => MEASURES.get(COLUMNS.get(name).measure).at);
  const [colour, facet] = [state.colour, state.facet].map(placeIn);
  const found = new Map();
  for (const row of rows) {
    if (Number.isNaN(x[row]) || Number.isNaN(y[row])) continue;
    const key = `${context(row)} ${parts[0][row]} ${parts[1][row]} ${colour(row)} ${facet(row)}`;
    if (!found.has(key)) found.set(key, row);
  }
  return [...found.values()];
}

// A function that says what tells a row from others in a field or column.
function placeIn(name) {
  if (!name) return () => "";
  const of = COLUMNS.has(name) ? numbers(name) : FIELDS.get(name).at;
  return (row) => of[row];
}

// The Pareto fronts of these rows, one for each context, and what may belong to them: row -> "front" or "near".
// The last row of each is ordered by x.
function fronts(rows) {
  const marks = new Map();
  const lines = [];
  if (!better(state.x) || !better(state.y)) return { marks, lines };
  const sign = [better(state.x) === "lower" ? 1 : -1, better(state.y) === "lower" ? -1 : 1];
  const [x, y] = [standing(state.x), standing(state.y)];
  const at = (row) => [sign[0] * x[row], sign[1] * y[row]];
  const quiet = rows.filter((row) => !inCompany(state.x, row) && !inCompany(state.y, row));
  for (const group of contexts(quiet)) {
    const ordered = [...group].sort((one, other) => at(one)[0] - at(other)[0] || at(other)[1] - at(one)[1]);
    let [best, price] = [-Infinity, NaN];
    const line = [];
    for (const row of ordered) {
      const [cost, value] = at(row);
      if (value > best || (value === best && cost === price)) {
        [best, price] = [value, cost];
        marks.set(row, "front");
        line.push(row);
      }
    }
    lines.push(line);
    if (group.length <= 600) markNear(ordered, at, marks);
  }
  return { marks, lines };
}

// Off the front by less than may be claimed: every row that beats it does so within noise.
function markNear(ordered, at, marks) {
  const known = (name) => TIES.has(name);
  if (!known(state.x) && !known(state.y)) return;
  for (const row of ordered) {
    if (marks.has(row)) continue;
    const [cost, value] = at(row);
    const beaten = ordered.some((other) => {
      const [price, worth] = at(other);
      if (price > cost || worth <= value) return false;
      if (price < cost && apart(state.x, other, row) === false) return false;
      return apart(state.y, other, row) !== false;
    });
    if (!beaten) marks.set(row, "near");
  }
}

// The best row within the constraints, those that cannot be told apart from it, and the cheapest of them; one answer for
// each context. `objective` is y, `cost` is x.
function solve(rows) {
  const objective = standing(state.y);
  const sign = better(state.y) === "lower" ? -1 : 1;
  const inside = rows.filter((row) => within(row) === "in" && !Number.isNaN(objective[row]) && !inCompany(state.y, row));
  const answers = contexts(inside).map((group) => {
    const best = group.reduce((one, other) => (sign * objective[other] > sign * objective[one] ? other : one));
    const unknown = group.some((row) => row !== best && apart(state.y, best, row) === null);
    const tied = group.filter((row) => row === best || objective[row] === objective[best] || apart(state.y, best, row) === false);
    return { best, tied, unknown, group, ...cheapest(tied, best) };
  });
  return answers.sort((one, other) => other.group.length - one.group.length || one.best - other.best);
}

function cheapest(tied, best) {
  if (!better(state.x)) return { pick: best, alike: [] };
  const cost = standing(state.x);
  const sign = better(state.x) === "higher" ? -1 : 1;
  const priced = tied.filter((row) => !Number.isNaN(cost[row]) && !inCompany(state.x, row));
  if (!priced.length) return { pick: null, alike: [] };
  const pick = priced.reduce((one, other) => (sign * cost[other] < sign * cost[one] ? other : one));
  const parts = MEASURES.get(COLUMNS.get(state.x).measure).at;
  const alike = priced.filter((row) => row !== pick && parts[row] !== parts[pick] && apart(state.x, pick, row) === false);
  return { pick, alike };
}
