// One row, opened: all that is known of it, and how it is measured again.

function drawDetail(found) {
  const dialog = document.getElementById("detail");
  const row = state.row ? DATA.rows.id.indexOf(state.row) : -1;
  if (row < 0) {
    if (dialog.open) dialog.close();
    return;
  }
  document.getElementById("detail-title").textContent = nameOf(row);
  const parts = [heads(row), failures(row), fieldList(row), latencyParts(row), valueTables(row), classBars(row), elsewhere(row), seenPictures(row), again(row)];
  document.getElementById("detail-body").replaceChildren(...parts.flat().filter(Boolean));
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
}

function section(title, ...children) {
  return element("section", {}, element("h3", {}, title), ...children);
}

function heads(row) {
  const table = tableOf(row);
  const words = [`${table.task} on ${table.dataset}`, `${DATA.machines[table.machine][0]} (${table.environment})`];
  if (DATA.rows.rank[row]) words.push(`rank ${DATA.rows.rank[row]} of its recipe`);
  return element("p", { class: "soft" }, words.join(" · "));
}

function measuresOf(row) {
  return DATA.measures.filter((measure) => measure.at[row] >= 0);
}

function failures(row) {
  const bad = measuresOf(row).filter((measure) => measure.status && measure.status.values[measure.status.at[measure.at[row]]] !== "ok");
  const company = measuresOf(row).filter((measure) => measure.company?.[measure.at[row]]);
  return [
    ...bad.map((measure) => element("p", { class: "note bad" }, element("strong", {}, `${measure.name}: ${measure.status.values[measure.status.at[measure.at[row]]]}. `), measure.reason?.[measure.at[row]] ?? "")),
    ...company.map((measure) => element("p", { class: "note" }, element("strong", {}, `${measure.name}: ${DATA.company.sign} taken in company. `), `${measure.company[measure.at[row]]}. Nothing is claimed of it.`)),
  ];
}

function fieldList(row) {
  const names = [...FIELDS.keys()].filter((name) => fieldOf(name, row) !== null && fieldOf(name, row) !== "");
  const items = names.flatMap((name) => [element("dt", {}, labelOf(name)), element("dd", {}, shown(fieldOf(name, row)))]);
  return section("What it is", element("dl", {}, ...items));
}

// The parts of a latency as one bar; each was timed by itself, so they need not add up to the whole.
function latencyParts(row) {
  const known = DATA.parts.filter((name) => COLUMNS.has(name) && !Number.isNaN(numbers(name)[row]));
  if (known.length < 2) return null;
  const total = known.reduce((sum, name) => sum + numbers(name)[row], 0);
  const pieces = known.map((name, index) => {
    const piece = element("span", { class: `piece piece${index}` });
    piece.style.flexGrow = String(numbers(name)[row] / total);
    return piece;
  });
  const items = known.map((name, index) => element("li", {}, element("span", { class: `swatch piece${index}` }), `${COLUMNS.get(name).title} ${withUnit(name, row)}, ${Math.round((100 * numbers(name)[row]) / total)} %`));
  return section("Parts of the latency", element("div", { class: "stack", "aria-hidden": "true" }, ...pieces), element("ul", { class: "legend" }, ...items), element("p", { class: "soft" }, "Each was timed by itself, in the same rounds; they need not add up to the latency."));
}

function valueTables(row) {
  const lines = measuresOf(row).flatMap((measure) => {
    const names = [...COLUMNS.keys()].filter((name) => COLUMNS.get(name).measure === measure.name && COLUMNS.get(name).class === undefined && !Number.isNaN(numbers(name)[row]));
    return names.map((name) => valueLine(name, row));
  });
  if (!lines.length) return null;
  const head = element("tr", {}, ...["measure", "what", "value", "spread"].map((text) => element("th", { scope: "col", class: text === "value" ? "number" : null }, text)));
  const notes = trainedWords(row).map((text) => element("p", { class: "soft" }, text));
  return section("What was measured", element("table", { class: "values" }, element("thead", {}, head), element("tbody", {}, ...lines)), ...notes);
}

function valueLine(name, row) {
  const column = COLUMNS.get(name);
  const seeds = spreadOf(name, row);
  const ends = endsOf(name, row);
  const words = [];
  if (seeds && seeds[1] !== null) words.push(`sd ${rounded(seeds[1], column.digits)} over ${seeds[0]} seeds`);
  if (ends) words.push(`${inCompany(name, row) ? "may be" : "95 % CI"} ${rounded(ends[0], column.digits)} to ${rounded(ends[1], column.digits)}`);
  const unit = column.unit ? ` ${column.unit}` : "";
  return element("tr", {}, element("td", { class: "soft" }, column.measure), element("th", { scope: "row", title: column.note || null }, column.title), element("td", { class: "number" }, numberText(name, row) + unit), element("td", { class: "soft" }, words.join("; ")));
}

function trainedWords(row) {
  return measuresOf(row).filter((measure) => measure.trained && measure.trained.at[measure.at[row]] >= 0).map((measure) => `Recipe: ${measure.trained.values[measure.trained.at[measure.at[row]]]}`);
}

function classBars(row) {
  return measuresOf(row).flatMap((measure) => Object.entries(measure.classes ?? {}).map(([column, classes]) => {
    const part = measure.at[row];
    if (classes.at[part] < 0) return null;
    const { title, unit, digits } = DATA.columns.find((one) => one.name === column);
    const values = classes.values[part];
    const most = unit === "%" ? 100 : Math.max(...values);
    const lines = classes.names[classes.at[part]].map((name, index) => {
      const bar = element("span", { class: "bar" });
      bar.style.width = `${(100 * values[index]) / (most || 1)}%`;
      return element("tr", {}, element("th", { scope: "row" }, name), element("td", {}, element("span", { class: "track", "aria-hidden": "true" }, bar)), element("td", { class: "number" }, rounded(values[index], digits)));
    });
    const head = element("thead", { class: "hidden" }, element("tr", {}, ...["class", "bar", title].map((text) => element("th", { scope: "col" }, text))));
    return section(`${title} of each class${unit ? ` (${unit})` : ""}`, element("table", { class: "classes" }, head, element("tbody", {}, ...lines)));
  }));
}

// The same choice of everything, measured elsewhere.
function elsewhere(row) {
  const names = Object.keys(DATA.fields);
  const same = (other) => names.every((name) => {
    const [one, two] = [DATA.fields[name].at[row], DATA.fields[name].at[other]];
    return one === two || one < 0 || two < 0;
  });
  const here = tableOf(row);
  const found = ROWS.filter((other) => {
    const table = tableOf(other);
    return table.task === here.task && table.dataset === here.dataset && DATA.rows.table[other] !== DATA.rows.table[row] && fieldOf("recipe", other) !== null && same(other);
  });
  if (!found.length) return null;
  const columns = [state.y, state.x].filter((name) => COLUMNS.has(name));
  const head = element("tr", {}, element("th", { scope: "col" }, "machine"), ...columns.map((name) => element("th", { scope: "col", class: "number" }, labelOf(name))));
  const lines = [row, ...found].map((other) => element("tr", {}, element("th", { scope: "row" }, other === row ? `${fieldOf("machine", other)} (this row)` : element("button", { type: "button", class: "link", onclick: () => change({ row: DATA.rows.id[other] }) }, fieldOf("machine", other))), ...columns.map((name) => element("td", { class: "number" }, withUnit(name, other)))));
  return section("On other machines", element("table", { class: "values" }, element("thead", {}, head), element("tbody", {}, ...lines)));
}

function seenPictures(row) {
  const names = measuresOf(row).flatMap((measure) => measure.pictures?.[measure.at[row]] ?? []);
  if (!names.length) return null;
  const [, folder] = DATA.machines[tableOf(row).machine];
  const place = section("What it predicts");
  place.hidden = true;
  for (const name of names) {
    const image = element("img", { alt: `Predictions of ${nameOf(row)}: ${name}`, loading: "eager", src: folder + encodeURIComponent(name) });
    const link = element("a", { href: folder + encodeURIComponent(name), target: "_blank", rel: "noopener" }, image);
    image.addEventListener("load", () => (place.hidden = false));
    image.addEventListener("error", () => link.remove());
    place.append(link);
  }
  return place;
}

function quoted(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\"'\"'")}'`;
}

// The line that measures this row anew; null where a part of it is of an earlier revision.
function command(row) {
  const words = ["densebench run"];
  const give = (option, value) => words.push(`--${option} ${quoted(String(value))}`);
  for (const name of Object.keys(DATA.fields)) {
    const value = fieldOf(name, row);
    if (name === "height") give("resolution", fieldOf("input", row));
    if (value !== null && name !== "height" && name !== "width") give(name.replaceAll("_", "-"), value);
  }
  const made = measuresOf(row).filter((measure) => measure.fields.length);
  give("measure", made.map((measure) => measure.name).join(","));
  const seeds = new Set(made.flatMap((measure) => measure.seeds?.[measure.at[row]] ?? []));
  if (seeds.size) give("seed", [...seeds].join(","));
  if (tableOf(row).root) words.push("--data-root FOLDER");
  return [...words, "--results again"].join(" \\\n  ");
}

function again(row) {
  if (["backbone", "head"].some((name) => String(fieldOf(name, row)).includes("@"))) {
    return section("Measure it again", element("p", { class: "soft" }, "It is of an earlier revision of its backbone or head, which is no longer there."));
  }
  const text = command(row);
  const code = element("pre", { tabindex: "0", "aria-label": "command" }, element("code", { id: "command" }, text));
  const words = ["It goes to a folder of its own, again, since what is in a results folder is not measured twice."];
  if (tableOf(row).root) words.push("FOLDER is where the data set lies.");
  if (String(fieldOf("recipe", row)).includes("@")) words.push("The recipe is a file of its own: give its path.");
  return section("Measure it again", code, element("button", { type: "button", onclick: (event) => copyText(text, event.target) }, "Copy command"), element("p", { class: "soft" }, words.join(" ")));
}

// Without a server there may be no clipboard: then the text is selected for copying by hand.
async function copyText(text, button) {
  const before = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    const box = element("textarea", { class: "hidden" });
    box.value = text;
    button.after(box);
    box.select();
    button.textContent = document.execCommand("copy") ? "Copied" : "Press Ctrl-C";
    if (button.textContent === "Copied") box.remove();
  }
  setTimeout(() => (button.textContent = before), 1500);
}
