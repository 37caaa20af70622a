"use strict";
// What is looked at stands in the address, so that it can be sent to somebody: #text=web&status=failed&sort=hosts.4.down
const form = document.getElementById("filter");
const text = document.getElementById("text");
const status = document.getElementById("status");
const shown = document.getElementById("shown");
const bodies = ["shares", "hosts"].map((id) => document.getElementById(id).tBodies[0]);
const order = new Intl.Collator(undefined, { numeric: true });
const state = new URLSearchParams(location.hash.slice(1));

function remember(name, value) {
  if (value) state.set(name, value);
  else state.delete(name);
  history.replaceState(null, "", "#" + state);
}

function filter() {
  const words = text.value.toLowerCase().split(/\s+/).filter(Boolean);
  const counts = bodies.map((body) => {
    let count = 0;
    for (const row of body.rows) {
      const content = [...row.cells].map((cell) => cell.textContent).join(" ").toLowerCase();
      const states = [...row.querySelectorAll(".status")].map((cell) => cell.textContent);
      row.hidden = !words.every((word) => content.includes(word)) || (status.value && !states.includes(status.value));
      if (!row.hidden) count += 1;
    }
    return `${count} of ${body.rows.length}`;
  });
  shown.textContent = `${counts[0]} shares, ${counts[1]} hosts`;
}

function sort(table, column, down) {
  const body = table.tBodies[0];
  const key = (row) => row.cells[column].textContent;
  const rows = [...body.rows].sort((a, b) => order.compare(key(a), key(b)) * (down ? -1 : 1));
  body.append(...rows);
  for (const [index, head] of [...table.tHead.rows[0].cells].entries()) {
    if (index === column) head.setAttribute("aria-sort", down ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  }
}

for (const table of document.querySelectorAll("table")) {
  for (const [column, head] of [...table.tHead.rows[0].cells].entries()) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      sort(table, column, down);
      remember("sort", `${table.id}.${column}.${down ? "down" : "up"}`);
    });
  }
}
// A tile shows what it counts.
for (const tile of document.querySelectorAll(".tiles li[class]")) {
  if (![...status.options].some((option) => option.text === tile.className)) continue;
  const button = document.createElement("button");
  button.type = "button";
  button.append(...tile.childNodes);
  tile.append(button);
  button.addEventListener("click", () => {
    status.value = tile.className;
    status.dispatchEvent(new Event("change"));
  });
}
form.addEventListener("submit", (event) => event.preventDefault());
text.addEventListener("input", () => { filter(); remember("text", text.value); });
status.addEventListener("change", () => { filter(); remember("status", status.value); });

form.hidden = false;
text.value = state.get("text") ?? "";
status.value = state.get("status") ?? "";
const [table, column, way] = (state.get("sort") ?? "").split(".");
const sorted = ["shares", "hosts", "findings"].includes(table) ? document.getElementById(table) : null;
if (sorted && Number(column) < sorted.tHead.rows[0].cells.length) sort(sorted, Number(column), way === "down");
filter();
