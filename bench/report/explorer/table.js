// The table of the rows on show: sorted, in pages, and as CSV.

const PAGE = 50;
const USUAL = ["recipe", "peak_mib", "gmacs", "params_m"];

// Make an element; text is text, never markup.
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

// The columns that the table shows: those chosen, or what names a row, the axes and some usual costs.
function tableColumns(rows) {
  if (state.columns) return state.columns;
  const names = ["backbone", "patch", "head", "input", ...varying(rows)].filter((name) => FIELDS.has(name));
  for (const name of ["dataset", "task", "machine"]) if (valuesOf(name, rows).length > 1) names.unshift(name);
  const numbered = [state.y, state.x, ...USUAL].filter((name) => COLUMNS.has(name));
  if (valuesOf("status", rows).some((value) => value !== "ok")) numbered.push("status");
  return [...new Set([...names, ...numbered])];
}

function compareBy(name) {
  if (COLUMNS.has(name)) {
    const of = numbers(name);
    return (one, other) => (Number.isNaN(of[one]) ? NaN : of[one] - of[other]);
  }
  const { values, at } = FIELDS.get(name);
  const place = new Map([...values.keys()].sort((one, other) => order(values[one], values[other])).map((index, rank) => [index, rank]));
  return (one, other) => (at[one] < 0 ? NaN : place.get(at[one]) - place.get(at[other]));
}

// Rows in the order of the table; what is unknown comes last, whichever way.
function sorted(rows) {
  const name = state.sort.replace(/^-/, "");
  if (!name || !(COLUMNS.has(name) || FIELDS.has(name))) return rows;
  const by = compareBy(name);
  const sign = state.sort.startsWith("-") ? -1 : 1;
  const known = rows.filter((row) => !Number.isNaN(by(row, row)));
  const unknown = rows.filter((row) => Number.isNaN(by(row, row)));
  return [...known.sort((one, other) => sign * by(one, other) || one - other), ...unknown];
}

function cellText(name, row) {
  return COLUMNS.has(name) ? numberText(name, row) : shown(fieldOf(name, row));
}

function spreadText(name, row) {
  const seeds = spreadOf(name, row);
  const ends = endsOf(name, row);
  const { digits } = COLUMNS.get(name);
  if (seeds && seeds[1] !== null) return `± ${rounded(seeds[1], digits)} (${seeds[0]})`;
  return ends ? `${rounded(ends[0], digits)}–${rounded(ends[1], digits)}` : "";
}

function drawTable(found) {
  const table = document.getElementById("table");
  const { inside: rows } = found;
  const names = tableColumns(rows);
  const pages = Math.max(1, Math.ceil(rows.length / PAGE));
  const page = Math.min(state.page, pages - 1);
  const start = page * PAGE;
  const shownRows = sorted(rows).slice(start, start + PAGE);
  const body = element("tbody", {}, ...shownRows.map((row) => tableRow(row, names, found)));
  const caption = element("caption", { class: "hidden" }, `Rows on show, ${rows.length} of ${COUNT}; each can be opened by its first button`);
  table.replaceChildren(caption, element("thead", {}, element("tr", {}, element("th", { scope: "col" }, element("span", { class: "hidden" }, "row")), ...names.map(heading))), body);
  const range = rows.length ? `${start + 1}–${start + shownRows.length} of ${rows.length}` : "no row is on show";
  document.getElementById("place").textContent = range;
  document.getElementById("previous").disabled = page === 0;
  document.getElementById("next").disabled = page >= pages - 1;
}

function heading(name) {
  const by = state.sort.replace(/^-/, "") === name;
  const downwards = state.sort.startsWith("-");
  const next = by ? (downwards ? name : `-${name}`) : better(name) === "higher" ? `-${name}` : name;
  const sign = by ? (downwards ? " ↓" : " ↑") : "";
  const button = element("button", { type: "button", "data-sort": name, onclick: () => sortBy(name, next) }, labelOf(name), element("span", { "aria-hidden": "true" }, sign));
  return element("th", { scope: "col", class: COLUMNS.has(name) ? "number" : null, "aria-sort": by ? (downwards ? "descending" : "ascending") : null }, button);
}

function sortBy(name, next) {
  change({ sort: next });
  document.querySelector(`#table [data-sort="${CSS.escape(name)}"]`)?.focus();
}

function tableRow(row, names, found) {
  const mark = found.picks.has(row) ? "★" : { front: "●", near: "○" }[found.marks.get(row)] ?? "";
  const said = found.picks.has(row) ? "the pick, " : { front: "Pareto-optimal, ", near: "may be Pareto-optimal, " }[found.marks.get(row)] ?? "";
  const open = element("button", { type: "button", class: "open", "data-row": DATA.rows.id[row], "aria-label": `Open ${said}${nameOf(row)}`, title: said.replace(", ", ""), onclick: () => change({ row: DATA.rows.id[row] }) }, mark || "›");
  const cells = names.map((name) => {
    if (!COLUMNS.has(name)) return element("td", { class: name === "status" && fieldOf(name, row) !== "ok" ? "bad" : null }, cellText(name, row));
    const bar = spreadText(name, row);
    return element("td", { class: "number" }, cellText(name, row), ...(bar ? [element("small", {}, ` ${bar}`)] : []));
  });
  return element("tr", { class: found.picks.has(row) ? "pick" : null, onclick: (event) => event.target.closest("button") || getSelection().toString() || change({ row: DATA.rows.id[row] }) }, element("td", { class: "opens" }, open), ...cells);
}

// Rows on show as CSV: all that they are known by, where they stand in the chart, and every number with its error.
function asCsv(rows, found) {
  const fields = [...FIELDS.keys()];
  const columns = [...COLUMNS.keys()].filter((name) => rows.some((row) => !Number.isNaN(numbers(name)[row])));
  const head = [...fields, "rank", "pareto", "pick", ...columns.flatMap((name) => [name, `${name}_sd`, `${name}_n`, `${name}_low`, `${name}_high`, `${name}_company`])];
  const stands = (row) => [DATA.rows.rank[row], found.marks.get(row) ?? "", found.picks.has(row) ? "1" : ""];
  const lines = rows.map((row) => [...fields.map((name) => fieldOf(name, row) ?? ""), ...stands(row), ...columns.flatMap((name) => csvNumbers(name, row))]);
  return [head, ...lines].map((line) => line.map(csvCell).join(",")).join("\n") + "\n";
}

function csvNumbers(name, row) {
  const value = numbers(name)[row];
  if (Number.isNaN(value)) return ["", "", "", "", "", ""];
  const [n, sd] = spreadOf(name, row) ?? [1, ""];
  const [low, high] = endsOf(name, row) ?? ["", ""];
  return [value, sd ?? "", n, low, high, inCompany(name, row) ? "1" : ""];
}

function csvCell(value) {
  // What begins as a formula does is no text to a spreadsheet, unless something stands before it.
  const text = /^[=+\-@\t\r]/.test(value) && Number.isNaN(Number(value)) ? `'${value}` : String(value);
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function download(name, text) {
  const address = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  element("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}
